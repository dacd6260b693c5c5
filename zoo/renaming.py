"""From the names and shapes of an official checkpoint to this project's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import Tensor

# the official name of a part, as a pattern, and ours; each applies to what those before it gave
Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


def renamed(name: str, renames: Renames) -> str:
    """The name after all replacements, in their order."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def like(tensor: Tensor, own: Tensor | None) -> Tensor:
    """The tensor in the shape of ours, where only axes of length 1 differ: 1x1 convolutions, scales of channels."""
    if own is not None and [n for n in tensor.shape if n > 1] == [n for n in own.shape if n > 1]:
        return tensor.reshape(own.shape)
    return tensor
