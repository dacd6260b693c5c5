"""Indices of each window's keys among a plan's tiles and on the map, for the unfused halves.

On a large map, windows are the same in most rows, so that indices on the map are stored once for each class of rows.

Shape legend: T queries per tile, R keys per region, of one axis (suffix h: rows, suffix w: columns); k = kh * kw keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache import cached
from ..tracing import real_tensors
from .geometry import Axis, AxisTiles
from .plan import AxisArguments, best_tiles, tile_classes

# indices of a map that are stored for classes of rows, above this number: 2 MiB
LARGE = 1 << 18


@dataclass(frozen=True)
class Windows:
    """Indices of the keys of all windows, k = kh * kw of them per query, for the unfused halves.

    Attributes:
        slots: (classes, T, k) region slot of every key; 0 where there is none.
        exists: (classes, T, k) whether there is a key; None when all exist.
        exists_on_map: (row classes, W, k) the same in the order of the map; None when all exist.
        position_on_map: (row classes * W * k,) index into a flat (2kh-1, 2kw-1) table; 0 where there is no key.
        row_class: (H,) class of every row; None when the classes are the rows.
    """

    slots: Tensor
    exists: Tensor | None
    exists_on_map: Tensor | None
    position_on_map: Tensor
    row_class: Tensor | None


@torch.compiler.assume_constant_result
def windows(rows: AxisArguments, columns: AxisArguments, device: str) -> Windows:
    """Returns the window indices in the tiles that `best_plan` chooses for the same axes."""
    return _windows(rows, columns, device)


@cached
def _windows(rows: AxisArguments, columns: AxisArguments, device: str) -> Windows:
    with real_tensors():
        return make_windows(*best_tiles(rows, columns), torch.device(device))


def make_windows(rows: AxisTiles, columns: AxisTiles, device: torch.device) -> Windows:
    """Computes the indices of windows in their tiles' regions, see `Windows`."""
    row_slots, column_slots = _window_slots(rows), _window_slots(columns)
    # (ch, Th, kh), (cw, Tw, kw) -> (cw, ch, Th, Tw, kh, kw)
    of_rows, of_columns = row_slots[None, :, :, None, :, None], column_slots[:, None, None, :, None, :]
    window = rows.axis.kernel * columns.axis.kernel
    exists = ((of_rows >= 0) & (of_columns >= 0)).reshape(-1, rows.tile * columns.tile, window)
    slots = (of_rows * columns.region + of_columns).reshape(exists.shape) * exists
    row_relation, column_relation = _relation_on_map(rows.axis), _relation_on_map(columns.axis)
    distinct, row_class = row_relation.unique(dim=0, return_inverse=True)
    # a second copy costs more time than the indices of a small map are worth
    is_large = len(row_relation) * len(column_relation) * window > LARGE
    has_classes = is_large and 2 * len(distinct) <= len(row_relation)
    if has_classes:
        row_relation = distinct
    # (row classes, kh), (W, kw) -> (row classes, W, kh, kw)
    on_map_rows, on_map_columns = row_relation[:, None, :, None], column_relation[None, :, None, :]
    exists_on_map = ((on_map_rows >= 0) & (on_map_columns >= 0)).flatten(2)
    position = (on_map_rows * (2 * columns.axis.kernel - 1) + on_map_columns).flatten(2) * exists_on_map
    complete = bool(exists.all())
    return Windows(
        slots=slots.to(device),
        exists=None if complete else exists.to(device),
        exists_on_map=None if complete else exists_on_map.to(device),
        position_on_map=position.flatten().to(device),
        row_class=row_class.to(device) if has_classes else None,
    )


def bias_on_map(bias: Tensor, places: Windows, size: torch.Size | tuple[int, int]) -> Tensor:
    """Expands a table over a map: (h, 2kh-1, 2kw-1) -> (H, W, h, k), with memory in the order (h, H, W, k)."""
    # (h, row classes * W * k) -> (h, H, W, k) -> (H, W, h, k)
    on_map = bias.flatten(1).index_select(1, places.position_on_map)
    if places.row_class is None:
        return on_map.unflatten(1, (*size, -1)).permute(1, 2, 0, 3)
    window = (bias.shape[1] + 1) // 2 * ((bias.shape[2] + 1) // 2)
    on_map = on_map.unflatten(1, (-1, size[1], window)).index_select(1, places.row_class)
    return on_map.permute(1, 2, 0, 3)


def exists_on_map(places: Windows) -> Tensor | None:
    """Returns whether windows have a key at each index, (H, W, 1, k); None when all exist."""
    exists = places.exists_on_map
    if exists is not None and places.row_class is not None:
        exists = exists.index_select(0, places.row_class)
    return None if exists is None else exists.unsqueeze(2)


def table_on_map(bias: Tensor, height: int, width: int) -> Tensor:
    """Same as `bias_on_map`, for the window of the table, without dilation and stride."""
    rows, columns = (
        (length, (side + 1) // 2, 1, 1, False) for length, side in zip((height, width), bias.shape[1:], strict=True)
    )
    return bias_on_map(bias, windows(rows, columns, str(bias.device)), (height, width))


def _window_slots(tiles: AxisTiles) -> Tensor:
    """Returns the region slots of an axis' windows in order, (classes, T, k); -1 where a causal window has ended."""
    _, relations = tile_classes(tiles)
    # attended slots come first and in order when sorted, since the others count as past the end
    slots = torch.arange(tiles.region).where(relations >= 0, tiles.region).sort(-1).values[..., : tiles.axis.kernel]
    return slots.where(slots < tiles.region, -1)


def _relation_on_map(axis: Axis) -> Tensor:
    """Returns key rank - query rank + kernel - 1 of every window, (L, k); -1 where a causal window has ended."""
    return torch.tensor(
        [
            [
                -1 if key is None else (key - position) // axis.dilation + axis.kernel - 1
                for key in axis.neighbors(position)
            ]
            for position in range(axis.length)
        ]
    )
