"""The integer geometry of shifted windows, exhaustively on small lengths, compared with Swin's roll on lists."""

from attnzoo.kernels.window.geometry import WindowAxis

AXES = [
    WindowAxis(length, window, shift)
    for length in range(1, 21)
    for window in range(1, length + 4)
    for shift in range(window)
]


def rolled(axis: WindowAxis) -> list[int]:
    """Returns positions in the order of ranks: the padded axis, rolled by -shift."""
    positions = list(range(-(-axis.length // axis.window) * axis.window))
    return positions[axis.shift :] + positions[: axis.shift]


def test_ranks_are_the_rolled_axis() -> None:
    for axis in AXES:
        positions = rolled(axis)
        assert axis.padded_length == len(positions) == axis.count * axis.window, axis
        assert axis.padded_length - axis.length < axis.window, axis
        assert [axis.position(rank) for rank in range(axis.padded_length)] == positions, axis
        assert [axis.rank(position) for position in positions] == list(range(axis.padded_length)), axis


def test_a_query_sees_its_window_on_its_side() -> None:
    for axis in AXES:
        positions = rolled(axis)
        for rank, position in enumerate(positions):
            start, end = axis.interval(rank)
            # the first `shift` positions were moved behind the last
            seen = [
                other
                for other in range(axis.padded_length)
                if other // axis.window == rank // axis.window
                and (positions[other] < axis.shift) == (position < axis.shift)
            ]
            assert list(range(start, end)) == seen, (axis, rank)


def test_seeing_is_mutual() -> None:
    for axis in AXES:
        intervals = [axis.interval(rank) for rank in range(axis.padded_length)]
        for rank, (start, end) in enumerate(intervals):
            assert start <= rank < end, (axis, rank)
            assert {intervals[other] for other in range(start, end)} == {(start, end)}, (axis, rank)


def test_only_the_last_window_lies_across_the_wrap() -> None:
    for axis in AXES:
        for rank in range(axis.padded_length - axis.window):
            start, end = axis.interval(rank)
            assert end - start == axis.window, (axis, rank)
