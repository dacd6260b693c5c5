"""A network with some of its layers computed in another way."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn


def swapped(model: nn.Module, renderings: Mapping[type[nn.Module], Callable[[Any], nn.Module]]) -> nn.Module:
    """A copy of a network in which every layer of these types is replaced.

    Args:
        model: the network; it stays as it is.
        renderings: by type of layer, what makes another module, with its weights, from the layer.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        rendering = renderings.get(type(module))
        if rendering is not None:
            model.set_submodule(name, rendering(module))
    return model.eval()
