"""Tensors that the eager execution derives from a geometry: index lists, masks and table indices.

Shape legend: G dilation groups, n tiles, T queries per tile, R keys per region, S slots per strip, of one axis (suffix
h: rows, suffix w: columns). Tiles are ordered (Gw, nw, Gh, nh): the first three axes number the columns of tiles, and
the nh tiles down a column read overlapping regions of one strip of keys. A column with more scores than are computed at
once is split into equal segments, which then count as columns. Inside a tile queries are (Th, Tw), inside a region keys
are (Rh, Rw), both row-major. Tokens are numbered row-major, `row * W + column`.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..cache import cached
from ..tracing import real_tensors
from .geometry import Axis, AxisTiles, cut

# Length, kernel, dilation, stride, causality. Tracers treat a plan as a constant, which requires plain arguments.
AxisArguments = tuple[int, int, int, int, bool]

# Larger tiles save copies, but compute more scores that are masked, which costs more; less so along one axis.
_LARGEST_TILE = 16
_LARGEST_TILE_OF_SEQUENCES = 32


@dataclass(frozen=True)
class Chunk:
    """Columns of tiles that are computed together.

    Chunks that are equal but for their place share their tensors.

    Attributes:
        first: the token that all tokens of the chunk are counted from.
        columns: number of columns.
        region_slots: columns * nh * R, the number of region slots.
        query_tokens: (columns * nh * T,) token of every query slot.
        repeats: query slots that only fill a tile: their token also has a later slot, in this chunk or another.
        strip_tokens: (columns * S,) token of every strip slot.
        key_tokens: tokens that some query of the chunk attends to.
        key_slots, key_starts: region slots of `key_tokens`, sorted by token, and the start of the run of each token.
        tile_class: (columns * nh,) class of every tile.
    """

    first: int
    columns: int
    region_slots: int
    query_tokens: Tensor
    repeats: Tensor
    strip_tokens: Tensor
    key_tokens: Tensor
    key_slots: Tensor
    key_starts: Tensor
    tile_class: Tensor


@dataclass(frozen=True)
class Plan:
    """A neighborhood on a map of one size, as tiles.

    Attributes:
        rows: nh, the number of tiles down a column or segment.
        queries, keys: T = Th * Tw and R = Rh * Rw.
        strip, strip_step: S = Sh * Rw, and the number of slots between neighboring regions of a strip.
        chunk_scores: maximum number of scores per head to compute at once, T * R over all tiles; None for all.
        chunks: the columns in chunks of at most `chunk_scores` scores, and at least one column or segment.
        query_slots: (H * W,) the query slot that holds each token; empty if there are several chunks.
        region_tokens: (columns * nh * R,) the token of every region slot; empty if there are several chunks.
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
    chunk_scores: int | None
    chunks: tuple[Chunk, ...]
    query_slots: Tensor
    region_tokens: Tensor
    mask: Tensor | None
    position: Tensor
    table_entries: Tensor
    table_slots: Tensor
    table_starts: Tensor
    is_identity: bool

    @property
    def whole(self) -> Chunk:
        """All columns as one chunk, of a plan that is not split."""
        (chunk,) = self.chunks
        return chunk

    @property
    def classes(self) -> int:
        """Number of tile classes."""
        return self.position.numel() // (self.queries * self.keys)


@torch.compiler.assume_constant_result
def best_plan(rows: AxisArguments, columns: AxisArguments, chunk_scores: int | None, device: str) -> Plan:
    """Returns the plan with the cheapest tiles.

    Args:
        rows: length, kernel, dilation, stride and causality of the row axis.
        columns: length, kernel, dilation, stride and causality of the column axis.
        chunk_scores: as in `Plan`.
        device: device of the plan's tensors.
    """
    return _plan(rows, columns, chunk_scores, device)


# Tracers treat a function's result as a constant only if the function itself is not a cache.
@cached
def _plan(rows: AxisArguments, columns: AxisArguments, chunk_scores: int | None, device: str) -> Plan:
    with real_tensors():
        return make_plan(*best_tiles(rows, columns), chunk_scores, torch.device(device))


def best_tiles(rows: AxisArguments, columns: AxisArguments) -> tuple[AxisTiles, AxisTiles]:
    """Returns the cheapest tiles of the two axes."""
    largest = _LARGEST_TILE_OF_SEQUENCES if 1 in (rows[0], columns[0]) else _LARGEST_TILE
    cuts = [
        [cut(axis, tile) for tile in range(1, min(axis.group_length(0), largest) + 1)]
        for axis in (Axis(*rows), Axis(*columns))
    ]
    best = min(itertools.product(*cuts), key=lambda tiles: _cost(*tiles))
    return best[0], best[1]


def _cost(rows: AxisTiles, columns: AxisTiles) -> int:
    """Returns the cost of a tiling: its scores and its keys; moving a key costs about as much as ten scores."""
    tiles = rows.axis.groups * rows.count * columns.axis.groups * columns.count
    return tiles * rows.region * columns.region * (rows.tile * columns.tile + 10)


def make_plan(rows: AxisTiles, columns: AxisTiles, chunk_scores: int | None, device: torch.device) -> Plan:
    """Splits a neighborhood into tiles, see `Plan`."""
    segments = _segments(rows.count, rows.tile * columns.tile * rows.region * columns.region, chunk_scores)
    layout = _Layout(rows, columns, segments)
    attends, position = layout.attends, layout.position
    queries, keys = attends.shape[1:]
    table_entries, table_slots, table_starts = _runs(position, attends.flatten())
    step = layout.count if chunk_scores is None else max(1, chunk_scores // (layout.rows * queries * keys))
    chunks = layout.chunks(step)
    query_slots = region_tokens = torch.empty(0, dtype=torch.long)
    if len(chunks) == 1:
        region_tokens = layout.region_tokens(torch.arange(layout.count))
        query_slots = torch.empty(rows.axis.length * columns.axis.length, dtype=torch.long)
        query_slots[chunks[0].query_tokens] = torch.arange(len(chunks[0].query_tokens))
    mask = torch.zeros(attends.shape).masked_fill_(~attends, -torch.inf)
    plan = Plan(
        rows=layout.rows,
        queries=queries,
        keys=keys,
        strip=layout.strip * columns.region,
        strip_step=rows.step * columns.region,
        chunk_scores=chunk_scores,
        chunks=chunks,
        query_slots=query_slots,
        region_tokens=region_tokens,
        mask=None if bool(attends.all()) else mask,
        position=position,
        table_entries=table_entries,
        table_slots=table_slots,
        table_starts=table_starts,
        is_identity=queries == keys and torch.equal(region_tokens, torch.arange(keys)),
    )
    return plan if device.type == "cpu" else _moved(plan, device)


def _moved(part: Any, device: torch.device) -> Any:
    """Returns a plan or chunk with its tensors on a device."""
    moved = {field.name: getattr(part, field.name) for field in fields(part)}
    for name, x in moved.items():
        if isinstance(x, Tensor):
            moved[name] = x.to(device)
        elif name == "chunks":
            moved[name] = tuple(_moved(chunk, device) for chunk in x)
    return replace(part, **moved)


class _Layout:
    """The tiles of a map.

    Attributes:
        count: number of columns of tiles, or of their segments.
        rows: tiles down a column or segment.
        strip: ranks of the strip of a column or segment.
        attends: (classes, T, R) whether a query attends to a key.
        position: (classes * T * R,), as in `Plan`.
    """

    def __init__(self, rows: AxisTiles, columns: AxisTiles, segments: int) -> None:
        # a segment of a group is like a group of its own
        self._width, self._groups = columns.axis.length, rows.axis.groups * segments
        self.count, self.rows = columns.axis.groups * columns.count * self._groups, rows.count // segments
        self.strip = rows.step * (self.rows - 1) + rows.region
        row_class, row_relation = tile_classes(rows)
        self._row_class = row_class.view(self._groups, -1)
        column_class, column_relation = tile_classes(columns)
        self._column_class, self._row_classes = column_class.flatten(), len(row_relation)
        # classes are numbered (cw, ch); relations (c, T, R) combine to (cw, ch, Th, Tw, Rh, Rw)
        of_rows, of_columns = row_relation[None, :, :, None, :, None], column_relation[:, None, None, :, None, :]
        attends = (of_rows >= 0) & (of_columns >= 0)
        position = of_rows * (2 * columns.axis.kernel - 1) + of_columns
        self.attends = attends.reshape(-1, rows.tile * columns.tile, rows.region * columns.region)
        self.position = (position.reshape(self.attends.shape) * self.attends).flatten()
        # (Gh, nh, Th) and (Gw * nw, Tw); (Gh, nh, Rh) and (Gw * nw, Rw); (Gh, Sh)
        query_rows, self._query_columns = _query_positions(rows), _query_positions(columns).flatten(0, 1)
        region_rows, self._region_columns = _region_positions(rows), _region_positions(columns).flatten(0, 1)
        starts = torch.arange(segments)[:, None] * self.rows * rows.step
        self._strip_rows = _strip_positions(rows)[:, starts + torch.arange(self.strip)].flatten(0, 1)
        # over all chunks: the surplus tile of a short dilation group repeats a query of another column
        row_repeats, self._column_repeats = _repeats(query_rows), _repeats(self._query_columns)
        self._query_rows, self._region_rows, self._row_repeats = (
            x.view(self._groups, -1, x.shape[-1]) for x in (query_rows, region_rows, row_repeats)
        )

    def chunks(self, step: int) -> tuple[Chunk, ...]:
        """Returns chunks of at most `step` columns; those that are equal but for their place share tensors."""
        chunks: list[Chunk] = []
        known: dict[tuple[tuple[int, ...], ...], Chunk] = {}
        for start in range(0, self.count, step):
            columns = torch.arange(start, min(start + step, self.count))
            tiles = columns // self._groups
            places = self._query_columns[tiles], self._region_columns[tiles]
            first = min(int(x.min()) for x in places)
            parts = columns % self._groups, self._column_class[tiles], self._column_repeats[tiles]
            key = tuple(tuple(x.flatten().tolist()) for x in (*parts, *(x - first for x in places)))
            if key not in known:
                known[key] = self._chunk(columns, first)
            chunks.append(replace(known[key], first=first))
        return tuple(chunks)

    def region_tokens(self, columns: Tensor, first: int = 0) -> Tensor:
        """Returns the tokens of the region slots of some columns, counted from `first`, (columns * nh * R,)."""
        return self._tokens(columns, self._region_rows, self._region_columns) - first

    def _chunk(self, columns: Tensor, first: int) -> Chunk:
        groups, tiles = columns % self._groups, columns // self._groups
        tile_class = (self._column_class[tiles, None] * self._row_classes + self._row_class[groups]).flatten()
        regions = self.region_tokens(columns, first)
        key_tokens, key_slots, key_starts = _runs(regions, self.attends.any(1)[tile_class].flatten())
        is_repeat = self._row_repeats[groups].unsqueeze(3) | self._column_repeats[tiles][:, None, None]
        return Chunk(
            first=first,
            columns=len(columns),
            region_slots=len(regions),
            query_tokens=self._tokens(columns, self._query_rows, self._query_columns) - first,
            repeats=is_repeat.flatten().nonzero().squeeze(1),
            strip_tokens=self._tokens(columns, self._strip_rows.unsqueeze(1), self._region_columns) - first,
            key_tokens=key_tokens,
            key_slots=key_slots,
            key_starts=key_starts,
            tile_class=tile_class,
        )

    def _tokens(self, columns: Tensor, of_rows: Tensor, of_columns: Tensor) -> Tensor:
        """Combines the positions of rows (Gh, ., .) and of columns (Gw * nw, .) to tokens."""
        row, column = of_rows[columns % self._groups], of_columns[columns // self._groups]
        # (columns, ., ., 1) and (columns, 1, 1, .)
        return (row.unsqueeze(3) * self._width + column[:, None, None]).flatten()


def _segments(tiles: int, scores: int, chunk_scores: int | None) -> int:
    """Returns the number of equal segments of a column: the fewest with at most `chunk_scores` scores.

    Args:
        tiles: tiles of the column.
        scores: scores of a tile.
        chunk_scores: as in `Plan`.
    """
    if chunk_scores is None:
        return 1
    divisors = [n for n in range(1, tiles + 1) if tiles % n == 0]
    return next((n for n in divisors if tiles // n * scores <= chunk_scores), tiles)


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


def _repeats(positions: Tensor) -> Tensor:
    """Returns whether the position of a slot also occurs in a later slot, in the shape of `positions`."""
    flat = positions.flatten()
    slots = torch.arange(len(flat))
    last = torch.full((int(flat.max()) + 1,), -1).scatter_reduce_(0, flat, slots, "amax")
    return (last[flat] != slots).view(positions.shape)
