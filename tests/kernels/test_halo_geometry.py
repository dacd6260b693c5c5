"""The geometry of halos, compared with counting."""

from __future__ import annotations

import itertools

import pytest

from attnzoo.kernels.halo.geometry import HaloAxis

AXES = [
    HaloAxis(length, block, halo, stride)
    for length, block, halo in itertools.product(range(1, 10), range(1, 6), range(5))
    for stride in range(1, block + 1)
    if block % stride == 0
]


@pytest.mark.parametrize("block", range(1, 6))
def test_every_position_is_in_the_block_that_is_its_own(block: int) -> None:
    for axis in (axis for axis in AXES if axis.block == block):
        places = range(axis.halo, axis.halo + axis.block)
        positions = [axis.position(number, place) for number in range(axis.count) for place in places]
        assert positions[: axis.length] == list(range(axis.length))
        # no block begins beyond the map
        assert len(positions) - axis.length < axis.block


@pytest.mark.parametrize("block", range(1, 6))
def test_what_windows_reach_is_padded(block: int) -> None:
    for axis in (axis for axis in AXES if axis.block == block):
        seen = {axis.position(number, place) for number in range(axis.count) for place in range(axis.window)}
        before, after = axis.padding
        assert (min(seen), max(seen)) == (-before, axis.length - 1 + after)
        # these whole blocks contain all windows, from the first position of the first window
        assert axis.whole_blocks % axis.block == 0
        assert 0 <= axis.whole_blocks - (before + axis.length + after) < axis.block


@pytest.mark.parametrize("block", range(1, 6))
def test_queries_stand_at_every_stride(block: int) -> None:
    for axis in (axis for axis in AXES if axis.block == block):
        strided = range(0, axis.length, axis.stride)
        assert axis.query_length == len(strided)
        assert axis.padded_queries == len(range(0, axis.count * axis.block, axis.stride))
        entries = {axis.relation(query, place) for query in range(axis.queries) for place in range(axis.window)}
        assert min(entries) >= 0
        assert max(entries) == 2 * axis.window - 2


@pytest.mark.parametrize("block", range(1, 6))
def test_every_key_is_in_a_tile_and_every_window_is_visited(block: int) -> None:
    for axis in (axis for axis in AXES if axis.block == block):
        starts = range(-axis.key_shift, axis.length, axis.block)
        assert len(axis.key_tiles) == len(starts)
        for start, windows in zip(starts, axis.key_tiles, strict=True):
            keys = set(range(start, start + axis.block)) & set(range(axis.length))
            seen = {
                number
                for number in range(axis.count)
                if keys & {axis.position(number, place) for place in range(axis.window)}
            }
            assert seen <= set(windows)
        # never more than tiles that are blocks have
        assert sum(map(len, axis.key_tiles)) <= sum(
            min(number + -(-axis.halo // axis.block) + 1, axis.count) - max(number - -(-axis.halo // axis.block), 0)
            for number in range(axis.count)
        )


def test_tiles_around_corners_are_in_few_windows() -> None:
    long, short = HaloAxis(32, 8, 3), HaloAxis(16, 8, 3)
    assert long.key_shift == 4
    assert [len(windows) for windows in long.key_tiles] == [1, 2, 2, 2, 1]
    assert short.key_shift == 0
    assert [len(windows) for windows in short.key_tiles] == [2, 2]
