"""The integer geometry, exhaustively on small lengths, compared with NATTEN's formulas, written out naively here."""

import pytest

from attnzoo.kernels.neighborhood.geometry import Axis, cut

LONGEST = 20


def axes(longest: int, is_causal: bool) -> list[Axis]:
    """Yields every axis up to a length: every kernel and dilation that fit, every stride."""
    return [
        Axis(length, kernel, dilation, stride, is_causal)
        for length in range(1, longest + 1)
        for kernel in range(1, length + 1)
        for dilation in range(1, length // kernel + 1)
        for stride in range(1, kernel + 1)
    ]


def natten_window(i: int, n: int, k: int, s: int, is_causal: bool) -> tuple[int, int]:
    """Returns start and end of the window of query i among n, as NATTEN computes them."""
    if is_causal:
        leader = min(i // s * s + s - 1, n - 1)
        return max(leader - k + 1, 0), i + 1
    leader = min(i // s * s + s // 2, n - 1)
    before, after = k // 2, k // 2 + k % 2 - 1
    start = max(leader - before, 0) + (leader + after >= n) * (n - after - leader - 1)
    return start, start + k


def natten_keys(axis: Axis, position: int) -> list[int]:
    """Returns the positions that a query attends to: its dilation group is an axis of its own."""
    group = list(range(position % axis.dilation, axis.length, axis.dilation))
    start, end = natten_window(group.index(position), len(group), axis.kernel, axis.stride, axis.is_causal)
    return group[start:end]


both_directions = pytest.mark.parametrize("is_causal", [False, True], ids=["centered", "causal"])


@both_directions
def test_neighbors_are_nattens(is_causal: bool) -> None:
    for axis in axes(LONGEST, is_causal):
        for position in range(axis.length):
            neighbors = axis.neighbors(position)
            assert len(neighbors) == axis.kernel, (axis, position)
            present = [key for key in neighbors if key is not None]
            assert present == natten_keys(axis, position), (axis, position)
            # missing keys are at the end
            assert neighbors[: len(present)] == present, (axis, position)


@both_directions
def test_query_is_in_its_own_window(is_causal: bool) -> None:
    for axis in axes(LONGEST, is_causal):
        for position in range(axis.length):
            assert position in axis.neighbors(position), (axis, position)


def test_windows_are_complete_and_inside_the_map() -> None:
    for axis in axes(LONGEST, is_causal=False):
        for position in range(axis.length):
            keys = axis.neighbors(position)
            assert None not in keys, (axis, position)
            assert min(keys) >= 0, (axis, position)
            assert max(keys) < axis.length, (axis, position)
            assert {key % axis.dilation for key in keys} == {position % axis.dilation}, (axis, position)


def test_causal_windows_end_with_the_query() -> None:
    for axis in axes(LONGEST, is_causal=True):
        for position in range(axis.length):
            assert max(key for key in axis.neighbors(position) if key is not None) == position, (axis, position)


def test_groups_partition_the_axis() -> None:
    for axis in axes(LONGEST, is_causal=False):
        positions = [axis.position(g, rank) for g in range(axis.groups) for rank in range(axis.group_length(g))]
        assert sorted(positions) == list(range(axis.length)), axis


@both_directions
def test_tiles_cover_every_query_once(is_causal: bool) -> None:
    for axis in axes(14, is_causal):
        for tile in range(1, axis.length + 2):
            tiles = cut(axis, tile)
            for group in range(axis.groups):
                slots = [tiles.query_rank(group, t, slot) for t in range(tiles.count) for slot in range(tiles.tile)]
                last = axis.group_length(group) - 1
                # every rank in order; the remaining slots repeat the last query of the group
                assert slots[: last + 1] == list(range(last + 1)), (axis, tile, group)
                assert set(slots[last + 1 :]) <= {last}, (axis, tile, group)


@both_directions
def test_relations_name_each_querys_keys(is_causal: bool) -> None:
    """Regions cover the windows: a relation marks exactly the keys of the window in its region."""
    for axis in axes(14, is_causal):
        for tile in range(1, axis.length + 1):
            tiles = cut(axis, tile)
            for group in range(axis.groups):
                for t in range(tiles.count):
                    check_relation(tiles, group, t)


def check_relation(tiles, group: int, t: int) -> None:
    axis = tiles.axis
    relation = tiles.relation(group, t)
    assert len(relation) == tiles.tile
    for slot, row in enumerate(relation):
        where = axis, tiles.tile, group, t, slot
        query = axis.position(group, tiles.query_rank(group, t, slot))
        attended = [(r, entry) for r, entry in enumerate(row) if entry is not None]
        keys = [tiles.strip_position(group, t * tiles.step + r) for r, _ in attended]
        assert len(row) == tiles.region, where
        assert keys == natten_keys(axis, query), where
        for key, (_, entry) in zip(keys, attended, strict=True):
            assert entry == (key - query) // axis.dilation + axis.kernel - 1, where
            assert 0 <= entry <= 2 * axis.kernel - 2, where


@both_directions
def test_regions_lie_in_their_strip(is_causal: bool) -> None:
    for axis in axes(14, is_causal):
        for tile in range(1, axis.length + 1):
            tiles = cut(axis, tile)
            assert tiles.step >= 0, (axis, tile)
            assert (tiles.count - 1) * tiles.step + tiles.region == tiles.strip, (axis, tile)
            for group in range(axis.groups):
                for slot in range(tiles.strip):
                    position = tiles.strip_position(group, slot)
                    assert 0 <= position < axis.length, (axis, tile, group, slot)
                    assert position % axis.dilation == group, (axis, tile, group, slot)


@pytest.mark.parametrize(
    ("length", "kernel", "dilation", "tile", "region"),
    [
        pytest.param(56, 7, 1, 4, 10, id="a tile and its rim"),
        pytest.param(7, 7, 1, 7, 7, id="the window is the map"),
        pytest.param(14, 7, 1, 14, 14, id="one tile holds the map"),
        pytest.param(128, 7, 8, 16, 16, id="one tile holds each dilation group"),
        pytest.param(9, 1, 1, 4, 4, id="a window of one"),
    ],
)
def test_regions_are_small(length: int, kernel: int, dilation: int, tile: int, region: int) -> None:
    assert cut(Axis(length, kernel, dilation), tile).region == region
