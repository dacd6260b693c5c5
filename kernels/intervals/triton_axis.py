"""Geometry of one axis inside a kernel: segments, ranks, and intervals of keys and of queries.

The terms are those of `kernels/neighborhood/geometry.py`; a segment is a dilation group or a window, and a rank is the
index in a segment. Every function takes the geometry of an axis as a compile-time constant, and the axis' length, its
shift and one segment at run time.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def segments_of(length, AXIS: tl.constexpr):
    """Returns the number of segments of an axis; the last window may extend beyond the end of the axis."""
    if AXIS.is_window:
        return tl.cdiv(length, AXIS.kernel)
    else:
        return length * 0 + AXIS.dilation


@triton.jit
def longest_segment(length, AXIS: tl.constexpr):
    """Returns the number of ranks in the longest segment of an axis."""
    if AXIS.is_window:
        return length * 0 + AXIS.kernel
    else:
        return tl.cdiv(length, AXIS.dilation)


@triton.jit
def segment_length(segment, length, AXIS: tl.constexpr):
    """Returns the number of ranks in a segment."""
    if AXIS.is_window:
        return segment * 0 + AXIS.kernel
    else:
        return (length - segment + AXIS.dilation - 1) // AXIS.dilation


@triton.jit
def position_of(rank, segment, length, shift, AXIS: tl.constexpr):
    """Returns positions on the axis; a position of `length` or more is in the padding of a window."""
    if AXIS.is_window:
        position = segment * AXIS.kernel + rank
        if AXIS.is_shifted:
            padded = tl.cdiv(length, AXIS.kernel) * AXIS.kernel
            position += shift
            position = tl.where(position >= padded, position - padded, position)
        return position
    else:
        return segment + rank * AXIS.dilation


@triton.jit
def _seam(segment, length, shift, AXIS: tl.constexpr):
    """Returns the first rank of a window that was shifted there from the other end of the axis."""
    padded = tl.cdiv(length, AXIS.kernel) * AXIS.kernel
    return tl.minimum(padded - shift - segment * AXIS.kernel, AXIS.kernel)


@triton.jit
def first_key(rank, segment, length, shift, AXIS: tl.constexpr):
    """Returns the ranks of the first keys that queries attend to."""
    if AXIS.is_window:
        if AXIS.is_shifted:
            seam = _seam(segment, length, shift, AXIS)
            return tl.where(rank >= seam, seam, 0)
        else:
            return rank * 0
    else:
        last = segment_length(segment, length, AXIS) - 1
        if AXIS.is_causal:
            leader = tl.minimum(rank // AXIS.stride * AXIS.stride + AXIS.stride - 1, last)
            return tl.maximum(leader - AXIS.kernel + 1, 0)
        else:
            leader = tl.minimum(rank // AXIS.stride * AXIS.stride + AXIS.stride // 2, last)
            return tl.minimum(tl.maximum(leader - AXIS.kernel // 2, 0), last + 1 - AXIS.kernel)


@triton.jit
def end_of_keys(rank, segment, length, shift, AXIS: tl.constexpr):
    """Returns the ranks after the last keys that queries attend to."""
    if AXIS.is_window:
        if AXIS.is_shifted:
            seam = _seam(segment, length, shift, AXIS)
            return tl.where(rank >= seam, AXIS.kernel, seam)
        else:
            return rank * 0 + AXIS.kernel
    elif AXIS.is_causal:
        return rank + 1
    else:
        return first_key(rank, segment, length, shift, AXIS) + AXIS.kernel


@triton.jit
def first_query(first, segment, length, shift, AXIS: tl.constexpr):
    """Returns the rank of the first query that attends to any of the keys from `first` on."""
    if AXIS.is_window:
        # queries and keys on the same side of the seam attend to each other
        return first_key(first, segment, length, shift, AXIS)
    elif AXIS.is_causal:
        return first
    else:
        # the first stride group whose leader's neighborhood ends after `first`
        leader = first - AXIS.kernel + 1 + AXIS.kernel // 2
        group = tl.cdiv(tl.maximum(leader - AXIS.stride // 2, 0), AXIS.stride)
        return tl.where(first < AXIS.kernel, 0, group * AXIS.stride)


@triton.jit
def end_of_queries(end, segment, length, shift, AXIS: tl.constexpr):
    """Returns the rank after the last query that attends to any of the keys before `end`, where 0 < end."""
    if AXIS.is_window:
        return end_of_keys(end - 1, segment, length, shift, AXIS)
    else:
        ranks = segment_length(segment, length, AXIS)
        if AXIS.is_causal:
            groups = tl.cdiv(end + AXIS.kernel - AXIS.stride, AXIS.stride)
            sees_all = ranks < end + AXIS.kernel
        else:
            groups = tl.cdiv(end + AXIS.kernel // 2 - AXIS.stride // 2, AXIS.stride)
            sees_all = end > ranks - AXIS.kernel
        return tl.where(sees_all, ranks, tl.minimum(groups * AXIS.stride, ranks))


@triton.jit
def ranks_on_map(segment, length, AXIS: tl.constexpr):
    """Returns the number of ranks of a segment that are on the map; windows must not be shifted."""
    if AXIS.is_window:
        return tl.minimum(length - segment * AXIS.kernel, AXIS.kernel)
    else:
        return segment_length(segment, length, AXIS)


@triton.jit
def classes_of_segment(CLASSES: tl.constexpr):
    """Returns the number of classes of tiles in a segment of one kind."""
    return CLASSES.before + CLASSES.period + CLASSES.after


@triton.jit
def class_of_tile(start, segment, length, shift, AXIS: tl.constexpr, CLASSES: tl.constexpr, SIDE: tl.constexpr):
    """Returns the class of the tile that starts at a rank, see `TileClasses`."""
    tile = start // SIDE
    tiles = tl.cdiv(segment_length(segment, length, AXIS), SIDE)
    found = tl.where(tile < CLASSES.before, tile, CLASSES.before + tile % CLASSES.period)
    to_end = tiles - tile
    count = classes_of_segment(CLASSES)
    found = tl.where(to_end <= CLASSES.after, count - to_end, found)
    # in a short segment both ends can affect a tile
    found = tl.where(tiles <= CLASSES.before + CLASSES.after, tile, found)
    if AXIS.is_shifted:
        found += count * (_seam(segment, length, shift, AXIS) < AXIS.kernel).to(tl.int32)
    elif CLASSES.kinds > 1:
        is_short = segment_length(segment, length, AXIS) < longest_segment(length, AXIS)
        found += count * is_short.to(tl.int32)
    return found


@triton.jit
def tile_of_class(number, length, AXIS: tl.constexpr, CLASSES: tl.constexpr, SIDE: tl.constexpr):
    """Returns the segment and the first rank of a tile of a class; the rank is out of range if there is none."""
    count = classes_of_segment(CLASSES)
    # the last segment is a short one if there are any, and has the seam
    segment = number // count * (segments_of(length, AXIS) - 1)
    number = number % count
    tiles = tl.cdiv(segment_length(segment, length, AXIS), SIDE)
    between = CLASSES.before + (number + CLASSES.period * CLASSES.before - 2 * CLASSES.before) % CLASSES.period
    tile = tl.where(number < CLASSES.before, number, between)
    tile = tl.where(number >= CLASSES.before + CLASSES.period, tiles - count + number, tile)
    tile = tl.where(tiles <= CLASSES.before + CLASSES.after, number, tile)
    return segment, tile * SIDE
