"""The arithmetic of ContMix: kernels from affinities, and weighted sums of neighborhoods.

Shape legend: B batch, H W map, C channels of the map, g heads, d = C / 2g, K k sides of the kernels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from typing import NamedTuple

import torch
from torch import Tensor

from attnzoo.kernels import define_dynamic, neighborhood_av, neighborhood_bias

from .precision import without_autocast
from .resizing import pool_to, resize

# cells per side that the context is pooled to, whatever the size of the map
CELLS = 7


class MixingWeights(NamedTuple):
    """The learned parameters of the mixing step of ContMix.

    Attributes:
        weight: (k * k + K * K, 49), the linear map from affinities to the weights of neighborhoods.
        shift: (k * k + K * K,), its bias.
        small_table, large_table: (g, 2k-1, 2k-1) and (g, 2K-1, 2K-1), relative position tables.
    """

    weight: Tensor
    shift: Tensor
    small_table: Tensor
    large_table: Tensor


# TorchScript cannot compile the operators and calls Python
@torch.jit.ignore
def mix(values: Tensor, queries: Tensor, keys: Tensor, learned: MixingWeights, scale: float) -> Tensor:
    """Sums each half of the values with the weights of its neighborhoods.

    Args:
        values: (B, H, W, C), H and W at least K.
        queries: (B, H, W, C / 2).
        keys: (B, 7, 7, C / 2).
        learned: see `MixingWeights`.
        scale: factor of the affinities.

    Returns:
        (B, H, W, C).
    """
    height, width = values.shape[1:3]
    dtype = torch.promote_types(values.dtype, torch.float32)
    tables = learned.small_table, learned.large_table
    heads = len(tables[0])
    # the first half's heads, then the second's: (B, H, W, C) -> two of (B, H, W, g, d)
    halves = values.unflatten(-1, (2, heads, -1)).unbind(3)
    sides = [(table.shape[1] + 1) // 2 for table in tables]
    places = [side**2 for side in sides]
    with without_autocast(values.device.type):
        # (B, H, W, C / 2) -> (B, g, HW, d), (B, 7, 7, C / 2) -> (B, g, d, 49)
        queries = queries.to(dtype).unflatten(-1, (heads, -1)).flatten(1, 2).transpose(1, 2)
        keys = keys.to(dtype).unflatten(-1, (heads, -1)).flatten(1, 2).permute(0, 2, 3, 1)
        # the linear map goes to the keys first: d is less than the 49 cells
        kernels = (keys * scale) @ learned.weight.to(dtype).T
        weights = []
        for kernel, shift, table in zip(
            kernels.split(places, -1), learned.shift.to(dtype).split(places), tables, strict=True
        ):
            # (H, W, g, k * k) -> (g, HW, k * k)
            bias = neighborhood_bias(table.to(dtype), (height, width)).permute(2, 0, 1, 3).flatten(1, 2)
            # (B, g, HW, k * k) -> (B, H, W, g, k * k)
            scores = queries @ kernel + (bias + shift)
            weights.append(scores.softmax(-1).transpose(1, 2).unflatten(1, (height, width)).to(values.dtype))
    mixed = [neighborhood_av(*pair) for pair in zip(weights, halves, sides, strict=True)]
    return torch.stack(mixed, 3).flatten(3)


def enlarged(height: int, width: int, kernel_size: int) -> tuple[int, int]:
    """Returns the size of the map that is mixed: its own, or one whose shorter side is `kernel_size`."""
    if min(height, width) >= kernel_size:
        return height, width
    # rounded as in the official code, with the division first
    rows = int(kernel_size / width * height) if width <= height else kernel_size
    columns = int(kernel_size / height * width) if height < width else kernel_size
    return rows, columns


@torch.jit.ignore
def mix_dynamic(values: Tensor, queries: Tensor, keys: Tensor, learned: MixingWeights, scale: float) -> Tensor:
    """Runs `mix` on a map of any size, which may be dynamic during export, as one node of the graph.

    In evaluation mode the layer that computes the keys may run before the context is enlarged and pooled, so everything
    that depends on the size is in this function.

    Args:
        values: (B, H, W, C).
        queries: (B, H, W, C / 2).
        keys: (B, H, W, C / 2), before pooling.
        learned, scale: as in `mix`.
    """
    out: Tensor = _mix_dynamic(values, queries, keys, *learned, scale)
    return out


def _run(
    values: Tensor,
    queries: Tensor,
    keys: Tensor,
    weight: Tensor,
    shift: Tensor,
    small_table: Tensor,
    large_table: Tensor,
    scale: float,
) -> Tensor:
    height, width = values.shape[1:3]
    size = enlarged(height, width, (large_table.shape[1] + 1) // 2)
    if size != (height, width):
        values, queries, keys = (resize(x, *size) for x in (values, queries, keys))
    learned = MixingWeights(weight, shift, small_table, large_table)
    return pool_to(mix(values, queries, pool_to(keys, CELLS, CELLS), learned, scale), height, width).contiguous()


_mix_dynamic = define_dynamic(
    "context_mixing",
    "(Tensor values, Tensor queries, Tensor keys, Tensor weight, Tensor shift, Tensor small_table, "
    "Tensor large_table, float scale) -> Tensor",
    _run,
    lambda values, *others: values.new_empty(values.shape),
)
