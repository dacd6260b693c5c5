"""From the names and shapes of an official checkpoint to this project's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from .registration import Filter, unwrapped

# the official name of a part, as a pattern, and ours; each applies to what those before it gave
Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def renamed(name: str, renames: Renames) -> str:
    """The name after all replacements, in their order."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def filter_by(rename: Callable[[str], str], left_out: tuple[str, ...] = ()) -> Filter:
    """A family's `checkpoint_filter_fn`, for which new names are all there is to do.

    What differs from ours by axes of length 1 alone gets the shape of ours.

    Args:
        rename: gives the name of ours for an official name, and for a name of ours itself.
        left_out: how the official names end of what is computed here.
    """

    def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        """A checkpoint of the authors or of this project to this project's names."""
        ours, weights = model.state_dict(), unwrapped(state_dict)
        names = {name: rename(name) for name in weights if not name.endswith(left_out)}
        return {name: like(weights[given], ours.get(name)) for given, name in names.items()}

    return checkpoint_filter_fn


def like(tensor: Tensor, own: Tensor | None) -> Tensor:
    """The tensor in the shape of ours, where only axes of length 1 differ: 1x1 convolutions, scales of channels."""
    if own is not None and [n for n in tensor.shape if n > 1] == [n for n in own.shape if n > 1]:
        return tensor.reshape(own.shape)
    return tensor
