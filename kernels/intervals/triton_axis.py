"""Who attends to whom along one axis, inside a kernel: segments, ranks, intervals of keys and of queries.

The vocabulary is that of `kernels/neighborhood/geometry.py`; a segment is a dilation group or a window, and a rank is
a place in its segment. Every function takes the rule of an axis as a compile-time constant, the axis' length and
shift at run time, and one segment.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def segments_of(length, RULE: tl.constexpr):
    """Number of segments of an axis; the last window may run over the axis' end."""
    if RULE.is_window:
        return tl.cdiv(length, RULE.kernel)
    else:
        return length * 0 + RULE.dilation


@triton.jit
def longest_segment(length, RULE: tl.constexpr):
    """Number of ranks of an axis' longest segment."""
    if RULE.is_window:
        return length * 0 + RULE.kernel
    else:
        return tl.cdiv(length, RULE.dilation)


@triton.jit
def segment_length(segment, length, RULE: tl.constexpr):
    """Number of ranks in a segment."""
    if RULE.is_window:
        return segment * 0 + RULE.kernel
    else:
        return (length - segment + RULE.dilation - 1) // RULE.dilation


@triton.jit
def position_of(rank, segment, length, shift, RULE: tl.constexpr):
    """Positions on the axis; at `length` or more, a window's rank lies in the padding."""
    if RULE.is_window:
        position = segment * RULE.kernel + rank
        if RULE.is_shifted:
            padded = tl.cdiv(length, RULE.kernel) * RULE.kernel
            position += shift
            position = tl.where(position >= padded, position - padded, position)
        return position
    else:
        return segment + rank * RULE.dilation


@triton.jit
def _seam(segment, length, shift, RULE: tl.constexpr):
    """First rank of a window that came around from the other end of the axis."""
    padded = tl.cdiv(length, RULE.kernel) * RULE.kernel
    return tl.minimum(padded - shift - segment * RULE.kernel, RULE.kernel)


@triton.jit
def first_key(rank, segment, length, shift, RULE: tl.constexpr):
    """Ranks of the first keys that queries attend to."""
    if RULE.is_window:
        if RULE.is_shifted:
            seam = _seam(segment, length, shift, RULE)
            return tl.where(rank >= seam, seam, 0)
        else:
            return rank * 0
    else:
        last = segment_length(segment, length, RULE) - 1
        if RULE.is_causal:
            leader = tl.minimum(rank // RULE.stride * RULE.stride + RULE.stride - 1, last)
            return tl.maximum(leader - RULE.kernel + 1, 0)
        else:
            leader = tl.minimum(rank // RULE.stride * RULE.stride + RULE.stride // 2, last)
            return tl.minimum(tl.maximum(leader - RULE.kernel // 2, 0), last + 1 - RULE.kernel)


@triton.jit
def end_of_keys(rank, segment, length, shift, RULE: tl.constexpr):
    """Ranks after the last keys that queries attend to."""
    if RULE.is_window:
        if RULE.is_shifted:
            seam = _seam(segment, length, shift, RULE)
            return tl.where(rank >= seam, RULE.kernel, seam)
        else:
            return rank * 0 + RULE.kernel
    elif RULE.is_causal:
        return rank + 1
    else:
        return first_key(rank, segment, length, shift, RULE) + RULE.kernel


@triton.jit
def first_query(first, segment, length, shift, RULE: tl.constexpr):
    """Rank of the first query that attends to any of the keys from `first` on."""
    if RULE.is_window:
        # who shares a window's side of the seam sees each other
        return first_key(first, segment, length, shift, RULE)
    elif RULE.is_causal:
        return first
    else:
        # the first stride group whose leader's neighborhood ends after `first`
        leader = first - RULE.kernel + 1 + RULE.kernel // 2
        group = tl.cdiv(tl.maximum(leader - RULE.stride // 2, 0), RULE.stride)
        return tl.where(first < RULE.kernel, 0, group * RULE.stride)


@triton.jit
def end_of_queries(end, segment, length, shift, RULE: tl.constexpr):
    """Rank after the last query that attends to any of the keys before `end`, where 0 < end."""
    if RULE.is_window:
        return end_of_keys(end - 1, segment, length, shift, RULE)
    else:
        ranks = segment_length(segment, length, RULE)
        if RULE.is_causal:
            groups = tl.cdiv(end + RULE.kernel - RULE.stride, RULE.stride)
            sees_all = ranks < end + RULE.kernel
        else:
            groups = tl.cdiv(end + RULE.kernel // 2 - RULE.stride // 2, RULE.stride)
            sees_all = end > ranks - RULE.kernel
        return tl.where(sees_all, ranks, tl.minimum(groups * RULE.stride, ranks))
