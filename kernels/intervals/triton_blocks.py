"""Building blocks of the interval kernels: which program computes which tile, scores and their mask.

Values that exist for rows and for columns are pairs: lengths, segments, ranks, positions. Tiles and chunks are
rectangles of ranks in row-major order.

Shape legend: M tokens of a program's tile, N tokens of a chunk, D channels.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ..triton_blocks import load, load_from
from ..triton_math import LOG2_E
from .triton_axis import (
    end_of_keys,
    end_of_queries,
    first_key,
    first_query,
    longest_segment,
    position_of,
    ranks_on_map,
    segment_length,
    segments_of,
)


class MapShape(NamedTuple):
    """The map of a call; flat, because Triton 3.6 loses sizes of 1 in a tuple within a tuple.

    Attributes:
        rows: H.
        columns: W.
        row_shift: shift of windows along rows.
        column_shift: shift of windows along columns.
        heads: number of heads.
    """

    rows: int
    columns: int
    row_shift: int
    column_shift: int
    heads: int


@triton.jit
def tile_of(program, map_shape, AXES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns a program's image, head and segments, and the ranks where its tile starts and ends.

    Heads vary fastest, because their channels are adjacent in memory. In a segment shorter than others a tile may be
    empty.
    """
    head = program % map_shape.heads
    program = program // map_shape.heads
    column_tiles = tl.cdiv(longest_segment(map_shape.columns, AXES[1]), COLUMNS)
    column = program % column_tiles * COLUMNS
    program = program // column_tiles
    column_segment = program % segments_of(map_shape.columns, AXES[1])
    program = program // segments_of(map_shape.columns, AXES[1])
    row_tiles = tl.cdiv(longest_segment(map_shape.rows, AXES[0]), ROWS)
    row = program % row_tiles * ROWS
    program = program // row_tiles
    row_segment = program % segments_of(map_shape.rows, AXES[0])
    image = program // segments_of(map_shape.rows, AXES[0])
    segments, start = (row_segment, column_segment), (row, column)
    return image, head, segments, start, end_of_tile(start, segments, map_shape, AXES, ROWS, COLUMNS)


@triton.jit
def end_of_tile(start, segments, map_shape, AXES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns the ranks where a tile ends: at its size, or with its segments."""
    row_end = tl.minimum(start[0] + ROWS, segment_length(segments[0], map_shape.rows, AXES[0]))
    column_end = tl.minimum(start[1] + COLUMNS, segment_length(segments[1], map_shape.columns, AXES[1]))
    return row_end, column_end


@triton.jit
def ends_on_map(segments, map_shape, AXES: tl.constexpr):
    """Returns the numbers of ranks of rows and columns that are on the map; windows must not be shifted."""
    rows = ranks_on_map(segments[0], map_shape.rows, AXES[0])
    columns = ranks_on_map(segments[1], map_shape.columns, AXES[1])
    return rows, columns


@triton.jit
def keys_of(start, end, segments, map_shape, AXES: tl.constexpr):
    """Returns start and end of the ranks that contain every key of a tile of queries."""
    row = first_key(start[0], segments[0], map_shape.rows, map_shape.row_shift, AXES[0])
    column = first_key(start[1], segments[1], map_shape.columns, map_shape.column_shift, AXES[1])
    row_end = end_of_keys(end[0] - 1, segments[0], map_shape.rows, map_shape.row_shift, AXES[0])
    column_end = end_of_keys(end[1] - 1, segments[1], map_shape.columns, map_shape.column_shift, AXES[1])
    return (row, column), (row_end, column_end)


@triton.jit
def queries_of(start, end, segments, map_shape, AXES: tl.constexpr):
    """Returns start and end of the ranks of every query that attends to a tile of keys.

    The interval is empty where no query attends to the keys because of a stride.
    """
    row = first_query(start[0], segments[0], map_shape.rows, map_shape.row_shift, AXES[0])
    column = first_query(start[1], segments[1], map_shape.columns, map_shape.column_shift, AXES[1])
    row_end = end_of_queries(end[0], segments[0], map_shape.rows, map_shape.row_shift, AXES[0])
    column_end = end_of_queries(end[1], segments[1], map_shape.columns, map_shape.column_shift, AXES[1])
    return (row, column), (tl.maximum(row, row_end), tl.maximum(column, column_end))


@triton.jit
def chunks_of(start, end, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns the number of chunks that cover a rectangle, and the number of chunks in a row."""
    across = tl.cdiv(end[1] - start[1], COLUMNS)
    return tl.cdiv(end[0] - start[0], ROWS) * across, across


@triton.jit
def ranks_of(start, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns the ranks of a rectangle's tokens, a pair of (ROWS * COLUMNS,)."""
    tokens = tl.arange(0, ROWS * COLUMNS)
    return start[0] + tokens // COLUMNS, start[1] + tokens % COLUMNS


@triton.jit
def ranks_of_chunk(start, chunk, across, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns the ranks of the tokens of one of the chunks that cover a rectangle."""
    return ranks_of((start[0] + chunk // across * ROWS, start[1] + chunk % across * COLUMNS), ROWS, COLUMNS)


@triton.jit
def next_chunk(place, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Returns the place of the next chunk in a rectangle, and whether it is the first one of a row of chunks.

    Args:
        place: first row and column of a chunk, relative to the rectangle.
        width: ranks in a row of the rectangle.
    """
    column = place[1] + COLUMNS
    is_first = column >= width
    return (tl.where(is_first, place[0] + ROWS, place[0]), tl.where(is_first, 0, column)), is_first


@triton.jit
def steps_between_chunks(
    tokens, width, AXES: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr
):
    """Returns the distances in memory from a chunk to the next, in the same row of chunks and at the start of the next.

    Args:
        tokens: the tensor.
        width: ranks in a row of the rectangle that the chunks cover.
        STEP: dtype that holds the distances; int32 takes half of the instructions.
    """
    aside = tl.full((), COLUMNS * AXES[1].dilation, STEP) * tokens.column_stride
    down = tl.full((), ROWS * AXES[0].dilation, STEP) * tokens.row_stride
    return aside, down - (tl.cdiv(width, COLUMNS) - 1) * aside


@triton.jit
def load_chunk(
    tokens, pointers, image, head, ranks, place, ends, segments, map_shape, AXES: tl.constexpr, WIDTH: tl.constexpr
):
    """Loads a chunk, (N, block), from pointers that were moved from chunk to chunk.

    In shifted windows such a distance is not the same for all tokens, so that the positions are computed again.

    Args:
        ranks: ranks of the first chunk's tokens.
        place: place of this chunk, relative to the first one.
        ends: numbers of ranks on the map, of rows and of columns.
    """
    if AXES[0].is_shifted | AXES[1].is_shifted:
        ranks = ranks[0] + place[0], ranks[1] + place[1]
        positions, exist = positions_of(ranks, segments, map_shape, AXES)
        return load(tokens, image, head, positions, exist, WIDTH)
    else:
        return load_from(pointers, (ranks[0] < ends[0] - place[0]) & (ranks[1] < ends[1] - place[1]), WIDTH)


@triton.jit
def as_column(pair):
    """Returns ranks as a column, (M, 1)."""
    return pair[0][:, None], pair[1][:, None]


@triton.jit
def as_row(pair):
    """Returns ranks as a row, (1, N)."""
    return pair[0][None, :], pair[1][None, :]


@triton.jit
def positions_of(ranks, segments, map_shape, AXES: tl.constexpr):
    """Returns the positions of tokens on the map, a pair, and whether the tokens are on the map."""
    rows = position_of(ranks[0], segments[0], map_shape.rows, map_shape.row_shift, AXES[0])
    columns = position_of(ranks[1], segments[1], map_shape.columns, map_shape.column_shift, AXES[1])
    exist = (ranks[0] < segment_length(segments[0], map_shape.rows, AXES[0])) & (rows < map_shape.rows)
    exist &= (ranks[1] < segment_length(segments[1], map_shape.columns, AXES[1])) & (columns < map_shape.columns)
    return (rows, columns), exist


@triton.jit
def _attends(query_ranks, key_ranks, segment, length, shift, AXIS: tl.constexpr):
    first = first_key(query_ranks, segment, length, shift, AXIS)
    count = end_of_keys(query_ranks, segment, length, shift, AXIS) - first
    # a slot beyond the segment attends to nothing: its table indices would be out of range
    count = tl.where(query_ranks < segment_length(segment, length, AXIS), count, 0)
    # one comparison instead of two: unsigned, a key before the first is beyond the last
    return (key_ranks - first).to(tl.uint32) < count.to(tl.uint32)


@triton.jit
def attends(query_ranks, key_ranks, segments, map_shape, AXES: tl.constexpr):
    """Returns whether queries attend to keys; one of the two is a column of ranks, the other a row."""
    rows = _attends(query_ranks[0], key_ranks[0], segments[0], map_shape.rows, map_shape.row_shift, AXES[0])
    columns = _attends(query_ranks[1], key_ranks[1], segments[1], map_shape.columns, map_shape.column_shift, AXES[1])
    return rows & columns


@triton.jit
def biased(scores, bias, head, query_ranks, key_ranks, counts, AXES: tl.constexpr):
    """Adds the relative position table (h, 2kh-1, 2kw-1) times log2(e) to scores, if there is a table."""
    if bias is not None:
        across_rows = 2 * AXES[1].kernel - 1
        first = (head * (2 * AXES[0].kernel - 1) + AXES[0].kernel - 1) * across_rows + AXES[1].kernel - 1
        # one subtraction per pair; all else is computed once per token
        of_queries = query_ranks[0] * across_rows + query_ranks[1] - first
        of_keys = key_ranks[0] * across_rows + key_ranks[1]
        scores += LOG2_E * tl.load(bias + (of_keys - of_queries), mask=counts, other=0.0).to(tl.float32)
    return scores
