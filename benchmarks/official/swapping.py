"""Replaces layers of a model by other modules."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def swapped(model: nn.Module, renderings: Mapping[type[nn.Module], Callable[[Any], nn.Module]]) -> nn.Module:
    """Copies a model, and replaces every layer of the given types, the outermost of nested ones.

    Args:
        model: the model; it is not changed.
        renderings: by type of layer, a function that makes the new module from the layer and its weights.
    """
    model, replaced = copy.deepcopy(model), list[str]()
    for name, module in list(model.named_modules()):
        rendering = renderings.get(type(module))
        if rendering is not None and not name.startswith(tuple(replaced)):
            model.set_submodule(name, rendering(module))
            replaced.append(f"{name}.")
    return model.eval()
