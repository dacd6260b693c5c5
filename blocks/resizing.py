"""Maps brought to another size, also where an exporter leaves their size dynamic.

Nothing here branches on such a size, see `attnzoo.kernels.tracing`: padding by zero rows, say, changes nothing.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from attnzoo.kernels import is_dynamic, is_exporting


def at_least(length: int, least: int) -> int:
    """The larger of two lengths."""
    if torch.jit.is_scripting():
        return max(length, least)
    # a symbol passes for a number
    return torch.sym_max(length, least)  # type: ignore[return-value]


def at_most(length: int, most: int) -> int:
    """The smaller of two lengths."""
    if torch.jit.is_scripting():
        return min(length, most)
    return torch.sym_min(length, most)  # type: ignore[return-value]


def multiple_of(length: int, unit: int) -> int:
    """The next multiple of a unit."""
    return (length + unit - 1) // unit * unit


def has_size(height: int, width: int, wanted_height: int, wanted_width: int) -> bool:
    """Whether a map has the wanted size; False where an exporter leaves that dynamic."""
    if is_dynamic([height, width, wanted_height, wanted_width]):
        return False
    return height == wanted_height and width == wanted_width


@register_notrace_function
def pad_to(x: Tensor, height: int, width: int, channels_last: bool = True) -> Tensor:
    """Zeros at the bottom and right: (B, H, W, C) -> (B, height, width, C), or the same with the channels first."""
    axis = 1 if channels_last else 2
    rows, columns = height - x.shape[axis], width - x.shape[axis + 1]
    padding = [0, 0, 0, columns, 0, rows] if channels_last else [0, columns, 0, rows]
    if is_dynamic([rows, columns]):
        return F.pad(x, padding)
    return F.pad(x, padding) if rows > 0 or columns > 0 else x


@register_notrace_function
def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Interpolates a map linearly: (B, H, W, C) -> (B, height, width, C)."""
    x = F.interpolate(x.permute(0, 3, 1, 2), size=[height, width], mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


@register_notrace_function
def pool_to(x: Tensor, height: int, width: int) -> Tensor:
    """Means of cells that cover a map evenly and may overlap: (B, H, W, C) -> (B, height, width, C).

    What `torch.nn.functional.adaptive_avg_pool2d` computes.
    """
    if is_dynamic([x.shape[1], x.shape[2], height, width]):
        return _means(x, _cells(x.shape[1], height, x), _cells(x.shape[2], width, x))
    if x.shape[1] == height and x.shape[2] == width:
        return x
    return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (height, width)).permute(0, 2, 3, 1)


@register_notrace_function
def pool_cells(x: Tensor, height: int, width: int) -> Tensor:
    """Means of cells of a size, the last ones of what the map has left: (B, H, W, C) -> (B, ⌈H / height⌉, .., C)."""
    if is_exporting() and _divides(height, x.shape[1]) and _divides(width, x.shape[2]):
        return _means_of_whole(x, height, width)
    if is_dynamic([x.shape[1], x.shape[2]]):
        return _means(x, _cells_of_size(x.shape[1], height, x), _cells_of_size(x.shape[2], width, x))
    return F.avg_pool2d(x.permute(0, 3, 1, 2), [height, width], ceil_mode=True).permute(0, 2, 3, 1)


@torch.jit.unused
def _divides(size: int, length: int) -> bool:
    """Whether cells of a size cover a length; not where that is not known."""
    return statically_known_true(length % size == 0)


@torch.jit.unused
def _means_of_whole(x: Tensor, height: int, width: int) -> Tensor:
    """Means of cells that cover a map, as sums along axes: pooling in ONNX wants the channels first."""
    batch, rows, columns, channels = x.shape[0], x.shape[1] // height, x.shape[2] // width, x.shape[3]
    # along the columns of the map first, where whole rows of numbers are summed: (.., height, W * C)
    x = x.reshape(batch * rows, height, columns * width * channels).mean(1)
    # (B * rows * columns, width, C)
    x = x.reshape(batch * rows * columns, width, channels).mean(1)
    return x.reshape(batch, rows, columns, channels)


@torch.jit.unused
def _means(x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Pooling as two products with matrices, which exporters know at any size: (B, H, W, C) -> (B, ., ., C)."""
    # (B, H, W, C) -> (B, height, W, C) -> (B, height, width, C)
    x = (rows @ x.flatten(2)).unflatten(2, (x.shape[2], x.shape[3]))
    return columns @ x


@torch.jit.unused
def _cells(length: int, count: int, like: Tensor) -> Tensor:
    """(count, length) share of each position in the mean of each cell; cells may overlap."""
    cell = torch.arange(count, device=like.device).unsqueeze(1)
    position = torch.arange(length, device=like.device)
    start, end = cell * length // count, ((cell + 1) * length + count - 1) // count
    inside = (position >= start) & (position < end)
    return inside.to(like.dtype) / (end - start).to(like.dtype)


@torch.jit.unused
def _cells_of_size(length: int, size: int, like: Tensor) -> Tensor:
    """(⌈length / size⌉, length) share of each position in the mean of each cell."""
    cell = torch.arange((length + size - 1) // size, device=like.device).unsqueeze(1)
    inside = (torch.arange(length, device=like.device) // size == cell).to(like.dtype)
    return inside / inside.sum(1, keepdim=True)
