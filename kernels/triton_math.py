"""Arithmetic of the kernels: matrix products and the running softmax."""

from __future__ import annotations

import triton
import triton.language as tl

from .triton_launch import is_interpreted

LOG2_E = tl.constexpr(1.4426950408889634)
# Triton before 3.7 does not turn a default into a constant
_IEEE = tl.constexpr("ieee")
_INTERPRETED = tl.constexpr(is_interpreted())


@triton.jit
def dot(a, b, sums=None, PRECISION: tl.constexpr = _IEEE):
    """Computes sums + a @ b, accumulated in float32, for (M, K) and (K, N) of one dtype."""
    if _INTERPRETED:
        # the interpreter treats bfloat16 operands as integers; in float32 the products are the same
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, sums, input_precision=PRECISION)


@triton.jit
def softmax_step(scores, maximum, total):
    """Computes one step of the running softmax over blocks of keys, in base 2.

    Args:
        scores: (M, N) scores times log2(e), -inf where a key is masked.
        maximum: (M,) largest score so far, initially a finite number below all scores.
        total: (M,) sum of weights so far.

    Returns:
        The weights (M, N) relative to the new maximum, the factor (M,) that rescales earlier sums, and the new maximum
        and total. A row without a key keeps a total of zero.
    """
    larger = tl.maximum(maximum, tl.max(scores, 1))
    rescale = tl.exp2(maximum - larger)
    weights = tl.exp2(scores - larger[:, None])
    return weights, rescale, larger, total * rescale + tl.sum(weights, 1)
