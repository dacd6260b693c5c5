"""Conversion of official checkpoints to the parameter names and shapes of this project."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

# the keys that official checkpoints store their weights under
WRAPPERS = ("state_dict", "model")

# names of the modules that DistributedDataParallel, torch.compile and transformers put around a module
WRAPPING_MODULES = ("module", "_orig_mod", "timm_model")

# pairs of a pattern of official names and our name; each is applied to the result of the previous ones
Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]


class Filter(Protocol):
    """The type of timm's `checkpoint_filter_fn`."""

    def __call__(self, state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """Converts an official checkpoint, or one of this project, to the names and shapes of the model."""


def unwrapped(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Returns the weights of a checkpoint, which may be stored directly or under a key of `WRAPPERS`.

    The parts of names that DistributedDataParallel, torch.compile and transformers add around a module are removed.
    """
    for key in WRAPPERS:
        checkpoint = checkpoint.get(key, checkpoint)
    return {own_name(name): tensor for name, tensor in checkpoint.items()}


def own_name(name: str) -> str:
    """Removes the parts of `WRAPPING_MODULES` from a name."""
    return ".".join(part for part in name.split(".") if part not in WRAPPING_MODULES)


def renamed(name: str, renames: Renames) -> str:
    """Applies all replacements to a name, in order."""
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def filter_by(
    rename: Callable[[str], str],
    left_out: tuple[str, ...] = (),
    before: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
) -> Filter:
    """Returns the `checkpoint_filter_fn` of a family whose official checkpoints differ only in names.

    A tensor whose shape differs from ours only in axes of length 1 is reshaped.

    Args:
        rename: maps an official name to ours, and keeps names that are ours already.
        left_out: suffixes of official names of tensors that are dropped because they are computed here.
        before: maps a checkpoint under further names to the official ones.
    """

    def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        """Converts an official checkpoint, or one of this project, to this project's names."""
        ours, weights = model.state_dict(), unwrapped(state_dict)
        if before is not None:
            weights = before(weights)
        names = {name: rename(name) for name in weights if not name.endswith(left_out)}
        return {name: like(weights[given], ours.get(name)) for given, name in names.items()}

    return checkpoint_filter_fn


def like(tensor: Tensor, own: Tensor | None) -> Tensor:
    """Reshapes a tensor to our shape if only axes of length 1 differ, as for 1x1 convolutions and channel scales."""
    if own is not None and [n for n in tensor.shape if n > 1] == [n for n in own.shape if n > 1]:
        return tensor.reshape(own.shape)
    return tensor


def depths_of(model: nn.Module) -> list[int]:
    """Returns the number of blocks of each stage; an empty list for a network without stages."""
    # the stages of timm's ResNet are sequences of blocks
    return [len(getattr(stage, "blocks", stage)) for stage in getattr(model, "stages", ())]


def block_of(index: int, depths: Sequence[int]) -> str:
    """Returns our name, such as `stages.2.blocks.0`, of a block whose official index counts through all stages.

    Raises:
        ValueError: the index is not less than the number of blocks.
    """
    place = index
    for stage, depth in enumerate(depths):
        if place < depth:
            return f"stages.{stage}.blocks.{place}"
        place -= depth
    raise ValueError(f"the checkpoint has a block {index}, but the model has only {sum(depths)} blocks")


def in_stages(name: str, depths: Sequence[int], blocks: str = "blocks") -> str:
    """Maps `blocks.7.` at the start of an official name, counted through all stages, to ours, as in `block_of`.

    Args:
        name: the name; one that does not start with a block stays as it is.
        depths: number of blocks of each stage.
        blocks: pattern of what the official code calls the list of blocks.

    Raises:
        ValueError: the model has fewer blocks.
    """
    return re.sub(rf"^{blocks}\.(\d+)\.", lambda match: f"{block_of(int(match[1]), depths)}.", name)


def filter_by_depths(rename: Callable[[str, Sequence[int]], str]) -> Filter:
    """Returns the `checkpoint_filter_fn` of a family whose names follow from the number of blocks of each stage.

    Args:
        rename: maps an official name to ours, given these numbers, and keeps names that are ours already.
    """

    def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
        """Converts an official checkpoint, or one of this project, to this project's names."""
        depths = depths_of(model)
        return {rename(name, depths): tensor for name, tensor in unwrapped(state_dict).items()}

    return checkpoint_filter_fn
