"""Classes of tiles: all tiles of a class have the same pairs of queries and keys, and the mask of a class is theirs."""

from __future__ import annotations

import itertools
import random
from types import SimpleNamespace

import pytest
import torch

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from attnzoo.kernels.intervals.geometry import AxisGeometry, TileClasses  # noqa: E402
from attnzoo.kernels.intervals.triton_axis import (  # noqa: E402
    class_of_tile,
    end_of_keys,
    end_of_queries,
    first_key,
    first_query,
    segment_length,
    tile_of_class,
)
from attnzoo.kernels.neighborhood.geometry import Axis  # noqa: E402

RANKS = 64


@triton.jit
def tiles_kernel(
    found, length, shift, AXIS: tl.constexpr, CLASSES: tl.constexpr, SIDE: tl.constexpr, RANKS: tl.constexpr,
    OF_KEYS: tl.constexpr,
):  # fmt: skip
    """Describes a tile: class, segment, start, end, rectangle, and the intervals of keys of its queries.

    Programs of one more segment than there are describe the tiles of the classes.
    """
    segment, number = tl.program_id(0), tl.program_id(1)
    start = number * SIDE
    row = found + (segment * tl.num_programs(1) + number) * (6 + 2 * RANKS)
    if segment == tl.num_programs(0) - 1:
        segment, start = tile_of_class(number, length, AXIS, CLASSES, SIDE)
    ranks = segment_length(segment, length, AXIS)
    end = tl.minimum(start + SIDE, ranks)
    if (start < 0) | (start >= end):
        return
    if OF_KEYS:
        first = first_query(start, segment, length, shift, AXIS)
        last = tl.maximum(first, end_of_queries(end, segment, length, shift, AXIS))
    else:
        first = first_key(start, segment, length, shift, AXIS)
        last = end_of_keys(end - 1, segment, length, shift, AXIS)
    tl.store(row, class_of_tile(start, segment, length, shift, AXIS, CLASSES, SIDE) + 1)
    tl.store(row + 1, segment)
    tl.store(row + 2, start)
    tl.store(row + 3, end)
    tl.store(row + 4, first)
    tl.store(row + 5, last)
    # queries of the rectangle, or of the tile
    queries = tl.arange(0, RANKS) + tl.where(OF_KEYS, first, start)
    tl.store(row + 6 + tl.arange(0, RANKS), first_key(queries, segment, length, shift, AXIS))
    tl.store(row + 6 + RANKS + tl.arange(0, RANKS), end_of_keys(queries, segment, length, shift, AXIS))


def tiles_of(case: SimpleNamespace, classes: TileClasses) -> tuple[list[tuple | None], list[tuple | None]]:
    """All tiles of an axis, and one of each class: its number and pairs relative to the tile; None if it is empty."""
    axis, length, shift, side, of_keys = case.axis, case.length, case.shift, case.side, case.of_keys
    segments = axis.segments(length)
    count = max(-(-axis.longest_segment(length) // side), classes.classes)
    found = torch.zeros(segments + 1, count, 6 + 2 * RANKS, dtype=torch.int32)
    tiles_kernel[(segments + 1, count)](found, length, shift, axis, classes, side, RANKS, of_keys)
    described = []
    for number, _, start, end, first, last, *intervals in found.flatten(0, 1).tolist():
        if not number:
            described.append(None)
            continue
        queries, keys = (range(first, last), range(start, end)) if of_keys else (range(start, end), range(first, last))
        pairs = [[intervals[i] <= key < intervals[RANKS + i] for key in keys] for i in range(min(len(queries), RANKS))]
        described.append((number - 1, first - start, last - first, end - start, pairs))
    return described[: segments * count], described[segments * count :]


def draw(seed: int) -> SimpleNamespace:
    generator = random.Random(seed)
    side, of_keys = generator.choice([1, 2, 4, 8, 16]), generator.random() < 0.5
    if generator.random() < 0.3:
        kernel = generator.randint(1, 12)
        length, shift = generator.randint(1, 30), generator.randrange(kernel)
        axis = AxisGeometry(kernel, is_window=True, is_shifted=shift > 0)
        return SimpleNamespace(axis=axis, length=length, shift=shift, side=side, of_keys=of_keys)
    is_causal = generator.random() < 0.4
    kernel = generator.randint(1, 9) if is_causal else generator.choice([1, 3, 5, 7, 9])
    dilation, stride = generator.randint(1, 4), generator.randint(1, kernel)
    length = generator.randint(kernel * dilation, kernel * dilation + 40)
    axis = AxisGeometry(kernel, dilation, stride, is_causal)
    return SimpleNamespace(axis=axis, length=length, shift=0, side=side, of_keys=of_keys)


@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.parametrize("first", range(0, 30, 15))
def test_tiles_of_a_class_have_the_same_pairs(first: int) -> None:
    for seed in range(first, first + 15):
        case = draw(seed)
        classes = case.axis.classes_of_tiles(case.side, case.of_keys)
        tiles, of_classes = tiles_of(case, classes)
        bound = case.axis.longest_rectangle(case.side, case.length, case.of_keys)
        seen = [tile for tile in tiles if tile is not None]
        assert seen
        for number, *described in seen:
            assert 0 <= number < classes.classes
            assert [number, *described] == [*of_classes[number]], (seed, case)
            assert described[1] <= bound, (seed, case)


def class_of(tile: int, tiles: int, classes: TileClasses) -> int:
    """The class of a tile, as `class_of_tile` computes it."""
    count = classes.before + classes.period + classes.after
    if tiles <= classes.before + classes.after or tile < classes.before:
        return tile
    to_end = tiles - tile
    return count - to_end if to_end <= classes.after else classes.before + tile % classes.period


@pytest.mark.parametrize("of_keys", [False, True], ids=["of queries", "of keys"])
@pytest.mark.parametrize("kernel", [1, 4, 5, 7])
def test_pairs_of_all_tiles_by_the_definition_of_a_neighborhood(kernel: int, of_keys: bool) -> None:
    for is_causal, stride in itertools.product((False, True), range(1, kernel + 1)):
        for length in range(kernel, 2 * kernel + 24):
            axis = Axis(length, kernel, 1, stride, is_causal)
            pairs = [(query, key) for query in range(length) for key in axis.neighbors(query) if key is not None]
            for side in (1, 2, 4, 8):
                check_tiles(pairs, AxisGeometry(kernel, 1, stride, is_causal), length, side, of_keys)


def check_tiles(pairs: list[tuple[int, int]], axis: AxisGeometry, length: int, side: int, of_keys: bool) -> None:
    classes, tiles = axis.classes_of_tiles(side, of_keys), -(-length // side)
    found = [set() for _ in range(tiles)]
    for query, key in pairs:
        tile = (key if of_keys else query) // side
        found[tile].add((query - tile * side, key - tile * side))
    seen: dict[int, set[tuple[int, int]]] = {}
    for tile, relative in enumerate(found):
        assert seen.setdefault(class_of(tile, tiles, classes), relative) == relative
        others = [pair[0 if of_keys else 1] for pair in relative]
        assert not others or max(others) - min(others) < axis.longest_rectangle(side, length, of_keys)


def test_most_tiles_of_a_large_map_share_their_classes() -> None:
    for axis, of_keys in itertools.product([AxisGeometry(7), AxisGeometry(7, 2)], [False, True]):
        assert axis.classes_of_tiles(4, of_keys).classes <= 6 * axis.dilation
