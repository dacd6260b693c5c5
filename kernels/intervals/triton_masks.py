"""Additive masks of the interval kernels: bias and mask of all pairs of a tile, once for each class of tiles.

Most tiles of a map have the same pairs: only those near the ends of a segment differ, see `TileClasses`. A mask holds
the bias of each pair, and -inf where the query does not attend to the key. The attention kernels read it instead of
computing both again for every image and tile.

Shape legend: h heads; M queries, N keys; kh kw kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import triton
import triton.language as tl

from ..triton_launch import Configuration, Launch
from ..triton_problem import Problem
from .triton_axis import class_of_tile, classes_of_segment, tile_of_class
from .triton_blocks import (
    as_column,
    as_row,
    attends,
    biased,
    chunks_of,
    end_of_tile,
    keys_of,
    queries_of,
    ranks_of,
    ranks_of_chunk,
)

# the largest finite float16
_LARGEST = tl.constexpr(65504.0)


@triton.jit
def interval_masks_kernel(
    bias,
    masks,
    map_shape,
    magnitude,
    chunks_each,
    AXES: tl.constexpr,
    CLASSES: tl.constexpr,
    OF_KEYS: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    CHUNK_ROWS: tl.constexpr,
    CHUNK_COLUMNS: tl.constexpr,
):
    """Fills `masks` (h or 1, classes, chunks_each, M, N): the bias in base 2 over `magnitude`, or -inf.

    With OF_KEYS the tiles are keys and the chunks are queries.
    """
    program = tl.program_id(0)
    chunk = program % chunks_each
    program = program // chunks_each
    row_classes = classes_of_segment(CLASSES[0]) * CLASSES[0].kinds
    column_classes = classes_of_segment(CLASSES[1]) * CLASSES[1].kinds
    row_number = program // column_classes % row_classes
    head = program // (column_classes * row_classes)
    row_segment, row = tile_of_class(row_number, map_shape.rows, AXES[0], CLASSES[0], TILE_ROWS)
    column_segment, column = tile_of_class(
        program % column_classes, map_shape.columns, AXES[1], CLASSES[1], TILE_COLUMNS
    )
    segments, start = (row_segment, column_segment), (row, column)
    end = end_of_tile(start, segments, map_shape, AXES, TILE_ROWS, TILE_COLUMNS)
    if (start[0] >= end[0]) | (start[1] >= end[1]):
        return
    if OF_KEYS:
        first, last = queries_of(start, end, segments, map_shape, AXES)
    else:
        first, last = keys_of(start, end, segments, map_shape, AXES)
    chunks, across = chunks_of(first, last, CHUNK_ROWS, CHUNK_COLUMNS)
    if chunk >= chunks:
        return
    tile_ranks = ranks_of(start, TILE_ROWS, TILE_COLUMNS)
    chunk_ranks = ranks_of_chunk(first, chunk, across, CHUNK_ROWS, CHUNK_COLUMNS)
    if OF_KEYS:
        query_ranks, key_ranks = as_column(chunk_ranks), as_row(tile_ranks)
    else:
        query_ranks, key_ranks = as_column(tile_ranks), as_row(chunk_ranks)
    queries: tl.constexpr = CHUNK_ROWS * CHUNK_COLUMNS if OF_KEYS else TILE_ROWS * TILE_COLUMNS
    keys: tl.constexpr = TILE_ROWS * TILE_COLUMNS if OF_KEYS else CHUNK_ROWS * CHUNK_COLUMNS
    counts = attends(query_ranks, key_ranks, segments, map_shape, AXES)
    added = biased(tl.zeros([queries, keys], tl.float32), bias, head, query_ranks, key_ranks, counts, AXES) / magnitude
    if masks.dtype.element_ty == tl.float16:
        added = tl.minimum(tl.maximum(added, -_LARGEST), _LARGEST)
    added = tl.where(counts, added, -float("inf"))
    pairs = tl.arange(0, queries)[:, None] * keys + tl.arange(0, keys)[None, :]
    tl.store(masks + tl.program_id(0).to(tl.int64) * (queries * keys) + pairs, added.to(masks.dtype.element_ty))


@triton.jit
def mask_of_tile(
    masks,
    head,
    segments,
    start,
    map_shape,
    chunks_each,
    BIASED: tl.constexpr,
    AXES: tl.constexpr,
    CLASSES: tl.constexpr,
    TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Returns pointers (M, N) to the mask of a tile and its first chunk; those of the next chunk follow after M * N."""
    row = class_of_tile(start[0], segments[0], map_shape.rows, map_shape.row_shift, AXES[0], CLASSES[0], TILE_ROWS)
    column = class_of_tile(
        start[1], segments[1], map_shape.columns, map_shape.column_shift, AXES[1], CLASSES[1], TILE_COLUMNS
    )
    row_classes = classes_of_segment(CLASSES[0]) * CLASSES[0].kinds
    column_classes = classes_of_segment(CLASSES[1]) * CLASSES[1].kinds
    entry = row * column_classes + column
    if BIASED:
        entry += head * (row_classes * column_classes)
    pairs = tl.arange(0, QUERIES)[:, None] * KEYS + tl.arange(0, KEYS)[None, :]
    return masks + entry.to(tl.int64) * chunks_each * (QUERIES * KEYS) + pairs


def masks_launch(
    problem: Problem, chosen: Configuration, arguments: Mapping[str, Any], of_keys: bool
) -> tuple[Launch, dict[str, Any], dict[str, Any]]:
    """Returns the launch that fills the masks of a kernel in a configuration.

    Args:
        problem: a problem of intervals.
        chosen: configuration of the kernel that reads the masks; without sizes of a chunk, it is as large as a tile.
        arguments: arguments of all kernels of the call, by name.
        of_keys: whether the tiles of that kernel are keys.

    Returns:
        The launch, and the arguments and constants that the kernel reads the masks with.
    """
    bias, sizes = arguments["bias"], dict(chosen.constants)
    sizes = {"CHUNK_ROWS": sizes["TILE_ROWS"], "CHUNK_COLUMNS": sizes["TILE_COLUMNS"], **sizes}
    classes = problem.geometry.classes_of_tiles(sizes, of_keys)
    chunks_each = problem.geometry.chunks(sizes, of_keys)
    heads = 1 if bias is None else problem.heads
    entries = heads * classes[0].classes * classes[1].classes * chunks_each
    pairs = sizes["TILE_ROWS"] * sizes["TILE_COLUMNS"] * sizes["CHUNK_ROWS"] * sizes["CHUNK_COLUMNS"]
    # as precise as bfloat16 operands deserve, in half of the memory traffic
    dtype = torch.float16 if problem.dtype == torch.bfloat16 else torch.float32
    masks = problem.workspace.empty((entries, pairs), dtype, arguments["q"].data.device)
    added = {"masks": masks, "chunks_each": chunks_each}
    constants = {"CLASSES": classes, "BIASED": bias is not None}
    of_masks = {"AXES": problem.geometry.axes, "OF_KEYS": of_keys, **constants}
    launch = problem.launch(
        interval_masks_kernel, {**arguments, **added}, of_masks, Configuration(sizes, 4, 1), lambda _: entries
    )
    return launch, added, constants
