"""Public operator of window attention: checks the arguments and chooses an execution.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, wh ww window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..arguments import (
    PerAxis,
    autocast,
    check_bias,
    check_same_width,
    check_tensors,
    execution_of,
    operator,
    pair_of,
    scale_or_default,
)
from ..packed import check_packed, of_packed, unpacked
from ..repeated import key_of, remember, repeated
from ..tracing import is_dynamic
from . import eager, reference, triton
from .geometry import WindowAxis


@operator(reference=reference.attention, eager=eager.attention, triton=triton.attention)
def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: PerAxis,
    *,
    shift: PerAxis = 0,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes softmax(q k^T * scale + bias) v within the wh x ww windows of a map.

    Window partition, cyclic shift and shift mask are included. With a shift, the map is rolled by (-shift rows, -shift
    columns) before the partition and rolled back afterwards. In a window across the wrap, tokens from different sides
    of the map do not attend to each other.

    A map whose size is not a multiple of the window is treated as padded with zeros at the bottom and right, for q, k
    and v alike. The shift applies to the padded map, and the result is cropped. Padded keys take part in the softmax,
    with only their bias as score, as in Swin. A window larger than the map is handled by the same padding. A block
    whose padded tokens carry the bias of its qkv projection must pad before the projection.

    Args:
        q: queries (B, H, W, h, D), floating point, with any strides.
        k: keys (B, H, W, h, D).
        v: values (B, H, W, h, E).
        window_size: window size per axis, >= 1; one number or (rows, columns).
        shift: cyclic shift of the map per axis, 0 .. window_size - 1.
        bias: relative position table (h, 2wh-1, 2ww-1); its entry at key - query + window_size - 1 per axis is added to
            the scores.
        scale: factor of the scores, applied before the bias; D ** -0.5 by default.
        backend: `reference`, `eager` or `triton`, which runs or raises an error; None chooses, see
            `attnzoo.kernels.explain`.

    Returns:
        (B, H, W, h, E) in the dtype of v, or in the autocast dtype where autocast is on.

    Raises:
        TypeError: an argument has the wrong type, or the dtypes of tensors differ.
        ValueError: shapes do not fit, the map is empty, the shift is outside of the window, or the backend is unknown.

    Source: Swin Transformer (arXiv 2103.14030, section 3.2, eq. 3-4, and figure 4 for the shift).
    """
    q, k, v, bias = autocast(q, k, v, bias)
    return _attend(window_attention, (q, k, v), window_size, shift, bias, scale, backend)


@operator(reference=of_packed(reference.attention), eager=of_packed(eager.attention), triton=triton.packed_attention)
def packed_window_attention(
    qkv: Tensor,
    window_size: PerAxis,
    *,
    shift: PerAxis = 0,
    bias: Tensor | None = None,
    scale: float | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes `window_attention` of queries, keys and values that lie in one tensor.

    The result is the same. The Triton kernels write the gradient of the tensor, where three gradients would be copied
    into it.

    Args:
        qkv: queries, keys and values (B, H, W, 3, h, D), floating point, with any strides.
        window_size, shift, bias, scale, backend: as in `window_attention`.

    Returns:
        (B, H, W, h, D) in the dtype of qkv, or in the autocast dtype where autocast is on.

    Raises:
        TypeError, ValueError: as in `window_attention`.
    """
    qkv, bias = autocast(qkv, bias)
    check_packed(qkv, "(B, H, W, 3, heads, width)")
    return _attend(packed_window_attention, (qkv,), window_size, shift, bias, scale, backend)


def _attend(
    function: Callable[..., Tensor],
    given: tuple[Tensor, ...],
    window_size: PerAxis,
    shift: PerAxis,
    bias: Tensor | None,
    scale: float | None,
    backend: str | None,
) -> Tensor:
    """Checks the arguments of an operator of q, k and v, or of the packed qkv, and runs the chosen execution."""
    key = key_of(function, (*given, bias), window_size, shift, scale, backend)
    again = repeated(key)
    if again is not None:
        return again(*given, bias)
    q, k, v = unpacked(given)
    check_tensors(q=q, k=k, v=v)
    check_same_width(q, k)
    axes = _axes(q, window_size, shift)
    check_bias(bias, q, (axes[0].window, axes[1].window))
    execution, factor = execution_of(function, backend, q, v), scale_or_default(scale, q)

    def attend(*tensors: Tensor | None, **how: Any) -> Tensor:
        return execution(*tensors[:-1], axes, tensors[-1], factor, **how)

    out = attend(*given, bias)
    remember(key, function, execution, attend)
    return out


def _axes(x: Tensor, window_size: PerAxis, shift: PerAxis) -> tuple[WindowAxis, WindowAxis]:
    windows, shifts = pair_of("window_size", window_size, int), pair_of("shift", shift, int)
    for axis, length in enumerate(x.shape[1:3]):
        name = f"on axis {axis} ({'rows' if axis == 0 else 'columns'})"
        if is_dynamic([length, windows[axis], shifts[axis]]):
            # a dynamic size cannot be checked
            continue
        if length < 1:
            raise ValueError(f"q must have a map of at least one row and one column, got {length} {name}")
        if windows[axis] < 1:
            raise ValueError(f"window_size must be at least 1, got {windows[axis]} {name}")
        if not 0 <= shifts[axis] < windows[axis]:
            raise ValueError(
                f"shift must be between 0 and window_size - 1, {windows[axis] - 1}, got {shifts[axis]} {name}: "
                "a shift by a whole window changes nothing"
            )
    rows, columns = (WindowAxis(x.shape[axis + 1], windows[axis], shifts[axis]) for axis in (0, 1))
    return rows, columns
