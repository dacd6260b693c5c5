"""Tensors that the eager execution derives from a geometry: index lists, masks and table indices.

Shape legend: G dilation groups, n tiles, T queries per tile, R keys per region, S slots per strip, of one axis (suffix
h: rows, suffix w: columns). Tiles are ordered (Gw, nw, Gh, nh): the first three axes number the columns of tiles, and
the nh tiles down a column read overlapping regions of one strip of keys. Inside a tile queries are (Th, Tw), inside a
region keys are (Rh, Rw), both row-major. Tokens are numbered row-major, `row * W + column`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from ..tracing import real_tensors
from .geometry import Axis, AxisTiles, cut

# Length, kernel, dilation, stride, causality. Tracers treat a plan as a constant, which requires plain arguments.
AxisArguments = tuple[int, int, int, int, bool]

# Larger tiles save copies, but compute more scores that are masked, which costs more.
_LARGEST_TILE = 16


@dataclass(frozen=True)
class Chunk:
    """Columns of tiles that are computed together.

    Attributes:
        columns: number of columns.
        query_tokens: (columns * nh * T,) token of every query slot.
        repeats: query slots that only fill a tile: their token also has a later slot, in this chunk or another.
        strip_tokens: (columns * S,) token of every strip slot.
        region_tokens: (columns * nh * R,) token of every region slot.
        key_tokens: tokens that some query of the chunk attends to.
        key_slots, key_starts: region slots of `key_tokens`, sorted by token, and the start of the run of each token.
        tile_class: (columns * nh,) class of every tile.
    """

    columns: int
    query_tokens: Tensor
    repeats: Tensor
    strip_tokens: Tensor
    region_tokens: Tensor
    key_tokens: Tensor
    key_slots: Tensor
    key_starts: Tensor
    tile_class: Tensor


@dataclass(frozen=True)
class Plan:
    """A neighborhood on a map of one size, as tiles.

    Attributes:
        rows: nh, the number of tiles down a column.
        queries, keys: T = Th * Tw and R = Rh * Rw.
        strip, strip_step: S = Sh * Rw, and the number of slots between neighboring regions of a strip.
        whole: all columns as one chunk.
        chunk_scores: maximum number of scores per head to compute at once, T * R over all tiles.
        chunks: the columns in chunks of at most `chunk_scores` scores, and at least one column.
        query_slots: (H * W,) the slot of `whole` that holds each token as a query.
        mask: (classes, T, R) 0 where a query attends to a key and -inf elsewhere, float32; None when every query
            attends to every key. Tiles of one class share a mask.
        position: (classes * T * R,) index into a flat (2kh-1, 2kw-1) table; 0 where a query does not attend to a key.
        table_entries, table_slots, table_starts: table entries in use, their indices in `position` sorted by entry, and
            the start of the run of each entry.
        is_identity: whether one tile holds the map, and its region the map in the same order, so that nothing is
            gathered.
    """

    rows: int
    queries: int
    keys: int
    strip: int
    strip_step: int
    whole: Chunk
    chunk_scores: int
    chunks: tuple[Chunk, ...]
    query_slots: Tensor
    mask: Tensor | None
    position: Tensor
    table_entries: Tensor
    table_slots: Tensor
    table_starts: Tensor
    is_identity: bool

    @property
    def classes(self) -> int:
        """Number of tile classes."""
        return self.position.numel() // (self.queries * self.keys)


@torch.compiler.assume_constant_result
def best_plan(rows: AxisArguments, columns: AxisArguments, chunk_scores: int, device: str) -> Plan:
    """Returns the plan with the cheapest tiles.

    Args:
        rows: length, kernel, dilation, stride and causality of the row axis.
        columns: length, kernel, dilation, stride and causality of the column axis.
        chunk_scores: as in `Plan`.
        device: device of the plan's tensors.
    """
    return _plan(rows, columns, chunk_scores, device)


# Tracers treat a function's result as a constant only if the function itself is not a cache.
@lru_cache(maxsize=256)
def _plan(rows: AxisArguments, columns: AxisArguments, chunk_scores: int, device: str) -> Plan:
    with real_tensors():
        return make_plan(*best_tiles(rows, columns), chunk_scores, torch.device(device))


def best_tiles(rows: AxisArguments, columns: AxisArguments) -> tuple[AxisTiles, AxisTiles]:
    """Returns the cheapest tiles of the two axes."""
    cuts = [
        [cut(axis, tile) for tile in range(1, min(axis.group_length(0), _LARGEST_TILE) + 1)]
        for axis in (Axis(*rows), Axis(*columns))
    ]
    best = min(itertools.product(*cuts), key=lambda tiles: _cost(*tiles))
    return best[0], best[1]


def _cost(rows: AxisTiles, columns: AxisTiles) -> int:
    """Returns the cost of a tiling: its scores and its keys; moving a key costs about as much as ten scores."""
    tiles = rows.axis.groups * rows.count * columns.axis.groups * columns.count
    return tiles * rows.region * columns.region * (rows.tile * columns.tile + 10)


def make_plan(rows: AxisTiles, columns: AxisTiles, chunk_scores: int, device: torch.device) -> Plan:
    """Splits a neighborhood into tiles, see `Plan`."""
    H, W = rows.axis.length, columns.axis.length
    queries, keys = rows.tile * columns.tile, rows.region * columns.region
    count = columns.axis.groups * columns.count * rows.axis.groups
    # (Gw, nw, ., Tw) x (Gh, nh, Th, .) -> (columns, nh * Th * Tw)
    query_tokens = (
        _query_positions(rows)[None, None, :, :, :, None] * W + _query_positions(columns)[:, :, None, None, None, :]
    ).view(count, -1)
    # (Gw, nw, ., Rw) x (Gh, Sh, .) -> (columns, S), and with (Gh, nh, Rh, .) -> (columns, nh * R)
    region_columns = _region_positions(columns)
    strip_tokens = (_strip_positions(rows)[None, None, :, :, None] * W + region_columns[:, :, None, None, :]).view(
        count, -1
    )
    region_tokens = (
        _region_positions(rows)[None, None, :, :, :, None] * W + region_columns[:, :, None, None, None, :]
    ).view(count, -1)

    row_class, row_relation = tile_classes(rows)
    column_class, column_relation = tile_classes(columns)
    # classes are numbered (cw, ch); relations (c, T, R) combine to (cw, ch, Th, Tw, Rh, Rw)
    tile_class = (column_class[:, :, None, None] * len(row_relation) + row_class[None, None]).view(count, -1)
    of_rows, of_columns = row_relation[None, :, :, None, :, None], column_relation[:, None, None, :, None, :]
    attends = ((of_rows >= 0) & (of_columns >= 0)).reshape(-1, queries, keys)
    position = ((of_rows * (2 * columns.axis.kernel - 1) + of_columns).reshape(attends.shape) * attends).flatten()
    table_entries, table_slots, table_starts = _runs(position, attends.flatten())

    # over all chunks: the surplus tile of a short dilation group repeats a query of another column
    is_repeat = _repeats(query_tokens.flatten()).view(count, -1)

    def chunk(first: int, last: int) -> Chunk:
        chosen = slice(first, last)
        used = attends.any(1)[tile_class[chosen]].flatten()
        key_tokens, key_slots, key_starts = _runs(region_tokens[chosen].flatten(), used)
        return Chunk(
            columns=len(query_tokens[chosen]),
            query_tokens=query_tokens[chosen].flatten().to(device),
            repeats=is_repeat[chosen].flatten().nonzero().squeeze(1).to(device),
            strip_tokens=strip_tokens[chosen].flatten().to(device),
            region_tokens=region_tokens[chosen].flatten().to(device),
            key_tokens=key_tokens.to(device),
            key_slots=key_slots.to(device),
            key_starts=key_starts.to(device),
            tile_class=tile_class[chosen].flatten().to(device),
        )

    step = max(1, chunk_scores // (rows.count * queries * keys))
    whole = chunk(0, count)
    chunks = (whole,) if step >= count else tuple(chunk(i, i + step) for i in range(0, count, step))
    mask = torch.zeros(attends.shape).masked_fill_(~attends, -torch.inf)
    query_slots = torch.empty(H * W, dtype=torch.long)
    query_slots[query_tokens.flatten()] = torch.arange(query_tokens.numel())
    in_order = torch.arange(H * W)
    return Plan(
        rows=rows.count,
        queries=queries,
        keys=keys,
        strip=rows.strip * columns.region,
        strip_step=rows.step * columns.region,
        whole=whole,
        chunk_scores=chunk_scores,
        chunks=chunks,
        query_slots=query_slots.to(device),
        mask=None if bool(attends.all()) else mask.to(device),
        position=position.to(device),
        table_entries=table_entries.to(device),
        table_slots=table_slots.to(device),
        table_starts=table_starts.to(device),
        is_identity=queries == keys == H * W and torch.equal(region_tokens.flatten(), in_order),
    )


def _query_positions(tiles: AxisTiles) -> Tensor:
    """Returns the positions of the query slots, (G, n, T)."""
    axis = tiles.axis
    return torch.tensor(
        [
            [[axis.position(g, tiles.query_rank(g, t, slot)) for slot in range(tiles.tile)] for t in range(tiles.count)]
            for g in range(axis.groups)
        ]
    )


def _strip_positions(tiles: AxisTiles) -> Tensor:
    """Returns the positions of the strip slots, (G, S)."""
    return torch.tensor(
        [[tiles.strip_position(g, slot) for slot in range(tiles.strip)] for g in range(tiles.axis.groups)]
    )


def _region_positions(tiles: AxisTiles) -> Tensor:
    """Returns the positions of the region slots, (G, n, R)."""
    starts = torch.arange(tiles.count)[:, None] * tiles.step
    return _strip_positions(tiles)[:, starts + torch.arange(tiles.region)]


def tile_classes(tiles: AxisTiles) -> tuple[Tensor, Tensor]:
    """Returns each tile's class (G, n), and the distinct relations of an axis, (classes, T, R) with -1 for None."""
    number: dict[tuple[tuple[int | None, ...], ...], int] = {}
    classes = [
        [number.setdefault(tiles.relation(g, t), len(number)) for t in range(tiles.count)]
        for g in range(tiles.axis.groups)
    ]
    relations = [[[-1 if entry is None else entry for entry in row] for row in relation] for relation in number]
    return torch.tensor(classes), torch.tensor(relations)


def _runs(values: Tensor, used: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Groups the used slots by value: distinct values, slots sorted by value, and the start of each value's run."""
    slots = used.nonzero().squeeze(1)
    ordered, order = values[slots].sort(stable=True)
    distinct, counts = ordered.unique_consecutive(return_counts=True)
    return distinct, slots[order], counts.cumsum(0) - counts


def _repeats(tokens: Tensor) -> Tensor:
    """Returns whether a slot's token also occurs in a later slot."""
    slots = torch.arange(len(tokens))
    last = torch.full((int(tokens.max()) + 1,), -1).scatter_reduce_(0, tokens, slots, "amax")
    return last[tokens] != slots
