"""Public operators of neighborhood attention: check the arguments and choose an execution.

Shape legend: B batch, H W map, L length of a sequence, h heads, D width of queries and keys, E width of values, kh kw
kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from operator import index as operator_index
from typing import Any

from torch import Tensor

from ..arguments import (
    MAP,
    PerAxis,
    PerAxisBool,
    autocast,
    check_bias,
    check_same_width,
    check_tensors,
    execution_of,
    operator,
    scale_or_default,
)
from ..packed import check_packed, of_packed, unpacked
from ..repeated import key_of, remember, repeated
from ..tracing import is_symbolic
from . import dynamic, eager, reference, triton
from .layouts import axes_of, from_map, kernels_of, layout_of, table_of_map, to_map
from .padding import Padding, is_padded, padded
from .windows import table_on_map


@operator(reference=reference.attention, eager=eager.attention, triton=triton.attention)
def neighborhood_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    kernel_size: PerAxis,
    *,
    dilation: PerAxis = 1,
    stride: PerAxis = 1,
    is_causal: PerAxisBool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    padding: Padding | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes softmax(q k^T * scale + bias) v over the kh x kw keys around each query.

    Windows are clamped: at a border they shift inward, so that every query has kh * kw keys. With a dilation d, each
    axis is split into d interleaved sub-axes, and the window of a query stays in the query's own sub-axis.

    A sequence, with q, k and v (B, L, h, .), has one axis: its windows are `kernel_size` long, and the result is (B, L,
    h, E).

    Keys and values must be finite. One that is not makes the outputs of the queries that attend to it NaN or infinite;
    in eager and Triton also those of other queries nearby, which are computed with it and give it a weight of zero.

    Args:
        q: queries (B, H, W, h, D), or (B, L, h, D) for sequences; floating point, with any strides.
        k: keys (B, H, W, h, D).
        v: values (B, H, W, h, E).
        kernel_size: window size per axis, 1 .. length // dilation, or larger with `padding`; one number, or (rows,
            columns) on a map.
        dilation: distance between the keys of a window per axis, >= 1.
        stride: number of queries per axis that share the window of the query in the middle of their group, 1 ..
            kernel_size.
        is_causal: per axis, whether a query attends only to itself and the kernel_size - 1 keys before it.
        bias: relative position table (h, 2kh-1, 2kw-1), or (h, 2 * kernel_size - 1) for sequences; its entry at (key -
            query) / dilation + kernel_size - 1 per axis is added to the scores.
        scale: factor of the scores, applied before the bias; D ** -0.5 by default.
        padding: a key (h, D) and a value (h, E) that pad a map smaller than kernel_size * dilation to that size, at the
            bottom and right.
        backend: `reference`, `eager` or `triton`, which runs or raises an error; None chooses, see
            `attnzoo.kernels.explain`.

    Returns:
        (B, H, W, h, E) in the dtype of v, or in the autocast dtype where autocast is on.

    Raises:
        TypeError: an argument has the wrong type, or the dtypes of tensors differ.
        ValueError: shapes do not fit, a window is larger than the map without padding, or the backend is unknown.

    Sources: Neighborhood Attention Transformer (arXiv 2204.07143, eq. 1-3), its dilated form (arXiv 2209.15001, eq.
    2-3), and for `stride` Generalized Neighborhood Attention (arXiv 2504.16922, section 3).
    """
    q, k, v, bias = autocast(q, k, v, bias)
    window = kernel_size, dilation, stride, is_causal
    return _attend(neighborhood_attention, (q, k, v), window, bias, scale, padding, backend)


@operator(reference=of_packed(reference.attention), eager=of_packed(eager.attention), triton=triton.packed_attention)
def packed_neighborhood_attention(
    qkv: Tensor,
    kernel_size: PerAxis,
    *,
    dilation: PerAxis = 1,
    stride: PerAxis = 1,
    is_causal: PerAxisBool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    padding: Padding | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes `neighborhood_attention` of queries, keys and values that lie in one tensor.

    The result is the same. The Triton kernels write the gradient of the tensor, where three gradients would be copied
    into it.

    Args:
        qkv: queries, keys and values (B, H, W, 3, h, D), or (B, L, 3, h, D) for sequences; floating point, with any
            strides.
        kernel_size, dilation, stride, is_causal, bias, scale, padding, backend: as in `neighborhood_attention`.

    Returns:
        (B, H, W, h, D), or (B, L, h, D), in the dtype of qkv, or in the autocast dtype where autocast is on.

    Raises:
        TypeError, ValueError: as in `neighborhood_attention`.
    """
    qkv, bias = autocast(qkv, bias)
    check_packed(qkv, "(B, H, W, 3, heads, width)", "(B, L, 3, heads, width)")
    window = kernel_size, dilation, stride, is_causal
    return _attend(packed_neighborhood_attention, (qkv,), window, bias, scale, padding, backend)


def _attend(
    function: Callable[..., Tensor],
    given: Sequence[Tensor],
    window: tuple[PerAxis, PerAxis, PerAxis, PerAxisBool],
    bias: Tensor | None,
    scale: float | None,
    padding: Padding | None,
    backend: str | None,
) -> Tensor:
    """Checks the arguments of an operator of q, k and v, or of the packed qkv, and runs the chosen execution."""
    # sequences and padding are prepared anew in each call
    key = key_of(function, (*given, bias), *window, scale, backend) if padding is None else None
    again = repeated(key)
    if again is not None:
        return again(*given, bias)
    q, k, v = unpacked(given)
    layout = layout_of(q, k, v)
    check_tensors(layout, q=q, k=k, v=v)
    check_same_width(q, k)
    axes = axes_of(q, layout, *window, is_padded=padding is not None)
    check_bias(bias, q, kernels_of(axes, layout))
    _check_padding(padding, k, v)
    factor = scale_or_default(scale, q)
    given, bias = [to_map(x, layout) for x in given], table_of_map(bias, layout)
    execution = execution_of(function, backend, q, v)
    if is_symbolic(list(q.shape[1:3])) and execution is function.executions["eager"]:  # type: ignore[attr-defined]
        return from_map(dynamic.attention(*unpacked(given), axes, bias, factor, padding), layout)
    if padding is None or not is_padded(axes):

        def attend(*tensors: Tensor | None, **how: Any) -> Tensor:
            return execution(*tensors[:-1], axes, tensors[-1], factor, **how)

        out = from_map(attend(*given, bias), layout)
        if layout is MAP:
            remember(key, function, execution, attend)
        return out
    execution = execution_of(neighborhood_attention, backend, q, v)
    out = padded(lambda q, k, v, axes: execution(q, k, v, axes, bias, factor), *unpacked(given), axes, padding)
    return from_map(out, layout)


@operator(reference=reference.qk, eager=eager.qk, triton=triton.qk)
def neighborhood_qk(
    q: Tensor,
    k: Tensor,
    kernel_size: PerAxis,
    *,
    dilation: PerAxis = 1,
    stride: PerAxis = 1,
    is_causal: PerAxisBool = False,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes the scores of each query with the keys of its window, the first half of `neighborhood_attention`.

    `neighborhood_av(neighborhood_qk(q, k, 7).softmax(-1), v, 7)` equals `neighborhood_attention(q, k, v, 7)`.

    Args:
        q, k, kernel_size, dilation, stride, is_causal, bias, scale, backend: as in `neighborhood_attention`.

    Returns:
        (B, H, W, h, kh * kw), windows row-major, or (B, L, h, kernel_size); -inf where a causal window has no key.

    Raises:
        TypeError, ValueError: as in `neighborhood_attention`.
    """
    q, k, bias = autocast(q, k, bias)
    layout = layout_of(q, k)
    check_tensors(layout, q=q, k=k)
    check_same_width(q, k)
    axes = axes_of(q, layout, kernel_size, dilation, stride, is_causal)
    check_bias(bias, q, kernels_of(axes, layout))
    factor = scale_or_default(scale, q)
    q, k, bias = to_map(q, layout), to_map(k, layout), table_of_map(bias, layout)
    execution = execution_of(neighborhood_qk, backend, q)
    if execution is eager.qk and is_symbolic(list(q.shape[1:3])):
        execution = dynamic.qk
    return from_map(execution(q, k, axes, bias, factor), layout)


@operator(reference=reference.av, eager=eager.av, triton=triton.av)
def neighborhood_av(
    weights: Tensor,
    v: Tensor,
    kernel_size: PerAxis,
    *,
    dilation: PerAxis = 1,
    stride: PerAxis = 1,
    is_causal: PerAxisBool = False,
    backend: str | None = None,
) -> Tensor:
    """Computes the weighted sum of the values of each query's window, the second half of `neighborhood_attention`.

    Values must be finite: in eager, one that is not also makes the outputs of other queries nearby NaN, whose windows
    do not have it.

    Args:
        weights: (B, H, W, h, kh * kw), windows row-major, or (B, L, h, kernel_size) for sequences; entries without a
            key in a causal window are not read.
        v: values (B, H, W, h, E), or (B, L, h, E).
        kernel_size, dilation, stride, is_causal, backend: as in `neighborhood_attention`.

    Returns:
        (B, H, W, h, E), or (B, L, h, E).

    Raises:
        TypeError, ValueError: as in `neighborhood_attention`.
    """
    weights, v = autocast(weights, v)
    layout = layout_of(weights, v)
    check_tensors(layout, weights=weights, v=v)
    axes = axes_of(v, layout, kernel_size, dilation, stride, is_causal)
    kernels = kernels_of(axes, layout)
    if weights.shape[-1] != math.prod(kernels):
        raise ValueError(
            f"weights must have one entry for each of the {' x '.join(map(str, kernels))} keys of a window, "
            f"{layout.tensor.replace('width', str(math.prod(kernels)))}, got {tuple(weights.shape)}"
        )
    weights, v = to_map(weights, layout), to_map(v, layout)
    execution = execution_of(neighborhood_av, backend, v)
    if execution is eager.av and is_symbolic(list(v.shape[1:3])):
        execution = dynamic.av
    return from_map(execution(weights, v, axes), layout)


def _check_padding(padding: Padding | None, k: Tensor, v: Tensor) -> None:
    if padding is None:
        return
    if not isinstance(padding, (tuple, list)) or not all(isinstance(x, Tensor) for x in padding):
        raise TypeError("padding must be a pair of tensors, a key (heads, width) and a value (heads, width), or None")
    shapes = [tuple(x.shape) for x in padding]
    if shapes != [tuple(k.shape[-2:]), tuple(v.shape[-2:])]:
        raise ValueError(
            f"padding must be a key {tuple(k.shape[-2:])} and a value {tuple(v.shape[-2:])}, "
            f"got {shapes[0]} and {shapes[-1]}"
        )


def neighborhood_bias(bias: Tensor, size: tuple[int, int]) -> Tensor:
    """Expands a relative position table over a map: the bias that `neighborhood_qk` adds to its scores.

    It is for weights that are not computed from queries and keys; `neighborhood_av` takes their softmax. The window
    size is that of the table, without dilation and stride. It runs in plain torch on every device, since there is
    nothing to fuse.

    Args:
        bias: table (h, 2kh-1, 2kw-1), floating point.
        size: rows H and columns W of the map, at least kh and kw.

    Returns:
        (H, W, h, kh * kw), windows row-major, in the dtype of the table; a view of memory ordered (h, H, W, kh * kw).

    Raises:
        TypeError: the table is not a floating-point tensor.
        ValueError: the table has an even side or not three axes, or its window is larger than the map.
    """
    if not isinstance(bias, Tensor) or not bias.is_floating_point():
        raise TypeError("bias must be a floating-point tensor (heads, 2 * rows - 1, 2 * columns - 1)")
    if bias.ndim != 3 or bias.shape[1] % 2 == 0 or bias.shape[2] % 2 == 0:
        raise ValueError(
            f"bias must have the shape (heads, 2 * rows - 1, 2 * columns - 1) of a window, got {tuple(bias.shape)}"
        )
    if is_symbolic(list(size)):
        return dynamic.bias_on_map(bias, size[0], size[1])
    height, width = (operator_index(length) for length in size)
    for length, side in zip((height, width), bias.shape[1:], strict=True):
        kernel = (side + 1) // 2
        if kernel > length:
            raise ValueError(f"the window of the table must not exceed the map, {tuple(size)}, got a side of {kernel}")
    return table_on_map(bias, height, width)
