"""From the names and shapes of an official checkpoint to this project's."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

# the keys under which authors wrap their weights
WRAPPERS = ("state_dict", "model")

# a pattern of official names and our name for it; each applies to the result of those before it
Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


class Filter(Protocol):
    """What timm calls `checkpoint_filter_fn`."""

    def __call__(self, state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """A checkpoint of the authors or of this project -> the same by the names and shapes of the model."""


def unwrapped(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint, which may be bare or wrapped."""
    for key in WRAPPERS:
        checkpoint = checkpoint.get(key, checkpoint)
    return checkpoint


def renamed(name: str, renames: Renames) -> str:
    """The name after all replacements, in their order."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def filter_by(rename: Callable[[str], str], left_out: tuple[str, ...] = ()) -> Filter:
    """A family's `checkpoint_filter_fn`, where names are all that differs.

    A tensor that differs from ours by axes of length 1 alone gets our shape.

    Args:
        rename: gives our name for an official name, and for a name of ours itself.
        left_out: endings of the official names of tensors that are computed here.
    """

    def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        """A checkpoint of the authors or of this project to this project's names."""
        ours, weights = model.state_dict(), unwrapped(state_dict)
        names = {name: rename(name) for name in weights if not name.endswith(left_out)}
        return {name: like(weights[given], ours.get(name)) for given, name in names.items()}

    return checkpoint_filter_fn


def like(tensor: Tensor, own: Tensor | None) -> Tensor:
    """The tensor in our shape, where only axes of length 1 differ: 1x1 convolutions, scales of channels."""
    if own is not None and [n for n in tensor.shape if n > 1] == [n for n in own.shape if n > 1]:
        return tensor.reshape(own.shape)
    return tensor


def depths_of(model: nn.Module) -> list[int]:
    """Blocks per stage of a network; none of a network without stages."""
    return [len(stage.blocks) for stage in getattr(model, "stages", ())]


def block_of(index: int, depths: Sequence[int]) -> str:
    """The name of a block that official names count through all stages, `stages.2.blocks.0`.

    Raises:
        ValueError: there are not so many blocks.
    """
    place = index
    for stage, depth in enumerate(depths):
        if place < depth:
            return f"stages.{stage}.blocks.{place}"
        place -= depth
    raise ValueError(f"the checkpoint has a block {index}, and the model only {sum(depths)} blocks")
