"""Padding, interpolation and pooling of maps, also for sizes that are dynamic during export.

Nothing here branches on a dynamic size, see `attnzoo.kernels.tracing`; padding by zero rows, for example, does nothing.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from attnzoo.kernels import is_dynamic, is_exporting


def at_least(length: int, least: int) -> int:
    """Returns the larger of two lengths."""
    if torch.jit.is_scripting():
        return max(length, least)
    return _larger(length, least)


@torch.jit.unused
def _larger(length: int, other: int) -> int:
    if torch.jit.is_tracing():
        # sizes are tensors
        return max(int(length), int(other))
    # a symbolic size is typed as an int
    return torch.sym_max(length, other)  # type: ignore[return-value]


def at_most(length: int, most: int) -> int:
    """Returns the smaller of two lengths."""
    if torch.jit.is_scripting():
        return min(length, most)
    return -_larger(-length, -most)


def multiple_of(length: int, unit: int) -> int:
    """Rounds a length up to a multiple of a unit."""
    return (length + unit - 1) // unit * unit


def has_size(height: int, width: int, wanted_height: int, wanted_width: int) -> bool:
    """Returns whether a map has the wanted size; False if a size is dynamic."""
    if is_dynamic([height, width, wanted_height, wanted_width]):
        return False
    return height == wanted_height and width == wanted_width


@register_notrace_function
def pad_to(x: Tensor, height: int, width: int, channels_last: bool = True) -> Tensor:
    """Pads with zeros at the bottom and right: (B, H, W, C) -> (B, height, width, C), or the same channel-first."""
    axis = 1 if channels_last else 2
    rows, columns = height - x.shape[axis], width - x.shape[axis + 1]
    padding = [0, 0, 0, columns, 0, rows] if channels_last else [0, columns, 0, rows]
    if is_dynamic([rows, columns]):
        return F.pad(x, padding)
    return F.pad(x, padding) if rows > 0 or columns > 0 else x


@register_notrace_function
def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Interpolates a map bilinearly: (B, H, W, C) -> (B, height, width, C)."""
    x = F.interpolate(x.permute(0, 3, 1, 2), size=[height, width], mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


@register_notrace_function
def pool_to(x: Tensor, height: int, width: int) -> Tensor:
    """Averages cells that cover a map evenly and may overlap: (B, H, W, C) -> (B, height, width, C).

    It computes the same as `torch.nn.functional.adaptive_avg_pool2d`.
    """
    if is_dynamic([x.shape[1], x.shape[2], height, width]):
        return _means(x, cells(x.shape[1], height, x), cells(x.shape[2], width, x))
    if x.shape[1] == height and x.shape[2] == width:
        return x
    return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (height, width)).permute(0, 2, 3, 1)


@register_notrace_function
def pool_cells(x: Tensor, height: int, width: int) -> Tensor:
    """Averages cells of a fixed size, cut off at the bottom and right: (B, H, W, C) -> (B, ⌈H / height⌉, .., C)."""
    if is_exporting() and _divides(height, x.shape[1]) and _divides(width, x.shape[2]):
        return _means_of_whole(x, height, width)
    if is_dynamic([x.shape[1], x.shape[2]]):
        return _means(x, _cells_of_size(x.shape[1], height, x), _cells_of_size(x.shape[2], width, x))
    if torch.jit.is_tracing():
        # sizes are tensors, and OpenVINO needs constants here
        height, width = int(height), int(width)
    return F.avg_pool2d(x.permute(0, 3, 1, 2), [height, width], ceil_mode=True).permute(0, 2, 3, 1)


@torch.jit.unused
def _divides(size: int, length: int) -> bool:
    """Returns whether a size divides a length; False if that is not known."""
    return statically_known_true(length % size == 0)


@torch.jit.unused
def _means_of_whole(x: Tensor, height: int, width: int) -> Tensor:
    """Averages cells that divide the map, with means over axes: pooling in ONNX needs channel-first maps."""
    batch, rows, columns, channels = x.shape[0], x.shape[1] // height, x.shape[2] // width, x.shape[3]
    # first over the rows of a cell, where contiguous rows of the map are summed: (.., height, W * C)
    x = x.reshape(batch * rows, height, columns * width * channels).mean(1)
    # (B * rows * columns, width, C)
    x = x.reshape(batch * rows * columns, width, channels).mean(1)
    return x.reshape(batch, rows, columns, channels)


@torch.jit.unused
def _means(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pools by two matrix products, which can be exported for any size: (B, H, W, C) -> (B, ., ., C)."""
    # (B, H, W, C) -> (B, height, W, C) -> (B, height, width, C)
    x = (rows @ x.flatten(2)).unflatten(2, (x.shape[2], x.shape[3]))
    return columns @ x


def cells(length: int, count: int, like: Tensor) -> Tensor:
    """Returns the weight of each position in the mean of each cell, (count, length); cells may overlap.

    Args:
        length: positions of an axis.
        count: cells, which cover the axis evenly, as those of `torch.nn.functional.adaptive_avg_pool1d`.
        like: a tensor of the wanted dtype and device.
    """
    cell = torch.arange(count, device=like.device).unsqueeze(1)
    position = torch.arange(length, device=like.device)
    start, end = cell * length // count, ((cell + 1) * length + count - 1) // count
    inside = (position >= start) & (position < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


@torch.jit.unused
def _cells_of_size(length: int, size: int, like: Tensor) -> Tensor:
    """Returns the weight of each position in the mean of each cell, (⌈length / size⌉, length)."""
    cell = torch.arange((length + size - 1) // size, device=like.device).unsqueeze(1)
    inside = (torch.arange(length, device=like.device) // size == cell).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
