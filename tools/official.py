"""Weights of ours under the authors' names, found by sending tensors with their names through our filter."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from attnzoo.base import checkpoint_filter, depths_of

from .files import replacing
from .inversion import restored
from .official_names import LISTINGS, Listing

# what the signs of a pattern stand for; the number of blocks depends on the network
_SIGNS = {
    "#": "{0,1,2,3,4}",
    "@": "{weight,bias}",
    "%": "{weight,bias,running_mean,running_var,num_batches_tracked}",
}

# shapes of theirs by that of ours, for layers that are joined or split here, tables (positions, heads), and filters
# whose real and imaginary parts are their last axis
_SHAPES: dict[str, Callable[[torch.Size], tuple[int, ...]]] = {
    "/2": lambda shape: (shape[0] // 2, *shape[1:]),
    "/3": lambda shape: (shape[0] // 3, *shape[1:]),
    "*2/3": lambda shape: (shape[0] // 3 * 2, *shape[1:]),
    "*2": lambda shape: (shape[0] * 2, *shape[1:]),
    "convs*2": lambda shape: (shape[0] * 2, shape[1], 1, 1),
    "linear": lambda shape: tuple(shape[:2]),
    "table": lambda shape: (shape[1] * shape[2], shape[0]),
    "rows": lambda shape: tuple(shape[1:]),
    "spectrum": lambda shape: (*shape[1:], shape[0]),
}


# formats of the files
_SUFFIXES = (".pth", ".safetensors")


def check_file(output: Path, overwrite: bool) -> None:
    """Checks that weights with official names can be written to a path.

    Raises:
        ValueError: it is no file of a known format, or exists and is not to be replaced.
    """
    if output.suffix not in _SUFFIXES or output.is_dir():
        raise ValueError(f"--to official writes a file: output must end with {' or '.join(_SUFFIXES)}, got {output}")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} already exists: pass --overwrite to replace it, or choose another file")


def write_official(network: Any, model: str, output: Path) -> None:
    """Writes the weights of a network for the authors' code; in a .pth file under the key that it reads.

    Raises:
        ValueError: as `official_weights`.
    """
    weights, key = official_weights(network, model)
    with replacing(output) as fresh:
        if output.suffix == ".safetensors":
            safetensors.torch.save_file(weights, fresh)
        else:
            torch.save({key: weights} if key else weights, fresh)


def official_weights(network: Any, model: str) -> tuple[dict[str, Tensor], str | None]:
    """Returns the weights of a network under the authors' names and in their shapes, and the key of their files.

    Buffers that the authors' code computes, such as indices of positions, are left out.

    Args:
        network: a network of ours; it must not be fused.
        model: its name.

    Raises:
        ValueError: the authors have no network like this, or published no code.
    """
    family = type(network).__module__.rpartition(".")[2]
    if family not in LISTINGS:
        raise ValueError(
            f"there is no official code of {model}: --to official takes the families {', '.join(LISTINGS)}"
        )
    reasons = []
    for listing in LISTINGS[family]:
        if listing.layout not in (None, getattr(network, "layout", None)):
            continue
        try:
            shapes = official_shapes(network, model, listing)
            return restored(network.state_dict(), network, checkpoint_filter(model), shapes), listing.key
        except ValueError as error:
            reasons.append(str(error))
    raise ValueError(f"the authors' code has no network like this {model}: {reasons[0]}")


def official_shapes(network: Any, model: str, listing: Listing) -> dict[str, torch.Size]:
    """Returns the official names of a network, with the shapes of their tensors.

    Raises:
        ValueError: the listing lacks a tensor of the network.
    """
    listed = dict(_listed(listing, sum(depths_of(network))))
    # constant tensors with the number of a name show which of ours it becomes
    probes = {name: torch.full(_probe(shape), i, dtype=torch.float64) for i, (name, shape) in enumerate(listed.items())}
    found, own = checkpoint_filter(model)(probes, network), network.state_dict()
    names, shapes = list(listed), {}
    for ours, tensor in own.items():
        if ours not in found:
            raise ValueError(f"there is no tensor for {ours}")
        # more than one if it is joined here; tables may have been interpolated
        for i in found[ours].round().unique().int().tolist():
            shapes[names[i]] = _shape(listed[names[i]], tensor.shape)
    return {name: torch.Size(shapes[name]) for name in names if name in shapes}


def _listed(listing: Listing, blocks: int) -> Iterator[tuple[str, str]]:
    """Yields all names of a listing, with the shapes of its patterns."""
    signs = {**_SIGNS, "*": f"{{{','.join(map(str, range(blocks)))}}}"}
    for line in listing.patterns:
        pattern, _, shape = line.partition(" ")
        for name in _expanded(re.sub(r"[#*@%]", lambda match: signs[match[0]], pattern)):
            yield name, shape


def _expanded(pattern: str) -> Iterator[str]:
    """Yields the names that a pattern stands for; braces may be nested."""
    inner = re.search(r"\{([^{}]*)\}", pattern)
    if inner is None:
        yield pattern
        return
    for choice in inner[1].split(","):
        yield from _expanded(pattern[: inner.start()] + choice + pattern[inner.end() :])


def _probe(shape: str) -> tuple[int, ...]:
    """Returns a shape of as many axes as a tensor has, so small that filters do not take it for another tensor."""
    if shape == "table":
        return 9, 2
    return tuple(2 if axis == "." else 1 for axis in shape) if shape and set(shape) <= set(".1") else (2, 2)


def _shape(shape: str, ours: torch.Size) -> tuple[int, ...]:
    if shape in _SHAPES:
        return _SHAPES[shape](ours)
    # also where it is a convolution here, too
    if shape.count(".") != len(ours):
        return tuple(ours)
    lengths = iter(ours)
    return tuple(next(lengths) if axis == "." else 1 for axis in shape)
