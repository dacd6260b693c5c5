"""The public operators of neighborhood attention: arguments are checked here, once, and an execution is chosen.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, kh kw kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..backends import choose
from . import eager, reference
from .geometry import Axis

PerAxis = int | Sequence[int]
PerAxisBool = bool | Sequence[bool]
F = TypeVar("F", bound=Callable[..., Any])


def _operator(**executions: Callable[..., Tensor]) -> Callable[[F], F]:
    """Marks a function as an operator and names its executions."""

    def mark(function: F) -> F:
        function.executions = executions  # type: ignore[attr-defined]
        return function

    return mark


@_operator(reference=reference.attention, eager=eager.attention)
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
    backend: str | None = None,
) -> Tensor:
    """softmax(q k^T * scale + bias) v over the kh x kw keys around each query.

    Windows are clamped: at a border they shift inward, so that a query always has kh * kw keys. With a dilation d,
    each axis falls into d interleaved sub-axes, and a window lies in its query's own.

    Args:
        q: queries (B, H, W, h, D), any strides, floating point.
        k: keys (B, H, W, h, D).
        v: values (B, H, W, h, E).
        kernel_size: window, per axis 1 .. length // dilation; one number or (rows, columns).
        dilation: distance between the keys of a window, per axis >= 1.
        stride: queries that share the window of their group's middle, per axis 1 .. kernel_size.
        is_causal: per axis, a query attends to itself and the kernel_size - 1 keys before it, nothing after.
        bias: table (h, 2kh-1, 2kw-1), added to the scores at (key - query) / dilation + kernel_size - 1 per axis.
        scale: what the scores are multiplied with before the bias; D ** -0.5 by default.
        backend: `reference`, `eager` or `triton`; it runs or raises. None chooses, `attnzoo.kernels.explain` tells.

    Returns:
        (B, H, W, h, E) in the dtype of v, or of autocast where it is on.

    Raises:
        TypeError: an argument of the wrong kind, or tensors whose dtypes differ.
        ValueError: shapes that do not fit, a window larger than the map, an unknown backend.

    Sources: Neighborhood Attention Transformer (arXiv 2204.07143, eq. 1-3), its dilated form (arXiv 2209.15001,
    eq. 2-3), and for `stride` Generalized Neighborhood Attention (arXiv 2504.16922, section 3).
    """
    q, k, v, bias = _autocast(q, k, v, bias)
    _check_tensors(q=q, k=k, v=v)
    _check_same_width(q, k)
    axes = _axes(q, kernel_size, dilation, stride, is_causal)
    _check_bias(bias, q, axes)
    execution = _execution(neighborhood_attention, backend, q)
    return execution(q, k, v, axes, bias, _scale(scale, q))


@_operator(reference=reference.qk, eager=eager.qk)
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
    """The first half of `neighborhood_attention`: each query's scores with the keys of its window.

    `neighborhood_av(neighborhood_qk(q, k, 7).softmax(-1), v, 7)` equals `neighborhood_attention(q, k, v, 7)`.

    Args:
        q, k, kernel_size, dilation, stride, is_causal, bias, scale, backend: as in `neighborhood_attention`.

    Returns:
        (B, H, W, h, kh * kw), windows row-major; -inf where a causal window has no key.

    Raises:
        TypeError, ValueError: as in `neighborhood_attention`.
    """
    q, k, bias = _autocast(q, k, bias)
    _check_tensors(q=q, k=k)
    _check_same_width(q, k)
    axes = _axes(q, kernel_size, dilation, stride, is_causal)
    _check_bias(bias, q, axes)
    return _execution(neighborhood_qk, backend, q)(q, k, axes, bias, _scale(scale, q))


@_operator(reference=reference.av, eager=eager.av)
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
    """The second half of `neighborhood_attention`: the values of each query's window, summed with its weights.

    Args:
        weights: (B, H, W, h, kh * kw), windows row-major; a causal window's missing places are not read.
        v: values (B, H, W, h, E).
        kernel_size, dilation, stride, is_causal, backend: as in `neighborhood_attention`.

    Returns:
        (B, H, W, h, E).

    Raises:
        TypeError, ValueError: as in `neighborhood_attention`.
    """
    weights, v = _autocast(weights, v)
    _check_tensors(weights=weights, v=v)
    axes = _axes(v, kernel_size, dilation, stride, is_causal)
    window = axes[0].kernel * axes[1].kernel
    if weights.shape[4] != window:
        raise ValueError(
            f"weights must have one entry for each of the {axes[0].kernel} x {axes[1].kernel} keys of a window, "
            f"(B, H, W, heads, {window}), got {tuple(weights.shape)}"
        )
    return _execution(neighborhood_av, backend, v)(weights, v, axes)


def _execution(function: Callable[..., Any], backend: str | None, tensor: Tensor) -> Callable[..., Tensor]:
    executions = function.executions  # type: ignore[attr-defined]
    return executions[choose(function.__name__, executions, backend, tensor.device).backend]


def _scale(scale: float | None, q: Tensor) -> float:
    if scale is None:
        return q.shape[4] ** -0.5
    # a tensor would lose its gradient here
    if isinstance(scale, bool) or not isinstance(scale, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(
            f"scale must be a number or None, got {type(scale).__name__}: multiply q with a learned scale and pass 1.0"
        )
    return float(scale)


def _autocast(*tensors: Any) -> tuple[Any, ...]:
    """Casts as torch does for its own attention where autocast is on: everything but float64."""
    devices = [x.device.type for x in tensors if isinstance(x, Tensor)]
    device = devices[0] if devices else "cpu"
    if not _knows_autocast(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x
        for x in tensors
    )


@torch.compiler.assume_constant_result  # older compilers cannot look into it
def _knows_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def _check_tensors(**tensors: Tensor) -> None:
    """All are (B, H, W, heads, .) and floating point, and agree in all but the last axis, dtype and device."""
    first_name, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor (B, H, W, heads, width), got {type(x).__name__}")
        if x.ndim != 5:
            raise ValueError(
                f"{name} must have five axes (B, H, W, heads, width), got {tuple(x.shape)}: "
                "split the channels into heads with unflatten(-1, (heads, width))"
            )
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {x.dtype}")
        if x.shape[3] < 1 or x.shape[4] < 1:
            raise ValueError(f"{name} must have at least one head and one channel in each, got {tuple(x.shape)}")
        if x.shape[:4] != first.shape[:4]:
            raise ValueError(
                f"{name} must have the batch, map and heads of {first_name}, {tuple(first.shape[:4])}, "
                f"got {tuple(x.shape[:4])}"
            )
        if x.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {x.dtype}")
        if x.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {x.device}")


def _check_same_width(q: Tensor, k: Tensor) -> None:
    if q.shape[4] != k.shape[4]:
        raise ValueError(f"k must have the width of q, {q.shape[4]}, got {k.shape[4]}")


def _check_bias(bias: Tensor | None, q: Tensor, axes: tuple[Axis, Axis]) -> None:
    if bias is None:
        return
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a tensor or None, got {type(bias).__name__}")
    if not bias.is_floating_point():
        raise TypeError(f"bias must be floating point, got {bias.dtype}")
    expected = q.shape[3], 2 * axes[0].kernel - 1, 2 * axes[1].kernel - 1
    if tuple(bias.shape) != expected:
        raise ValueError(
            f"bias must be a table (heads, 2 * rows - 1, 2 * columns - 1) = {expected} for a "
            f"{axes[0].kernel} x {axes[1].kernel} kernel, got {tuple(bias.shape)}"
        )
    if bias.device != q.device:
        raise ValueError(f"bias must be on the device of q, {q.device}, got {bias.device}")


def _axes(
    x: Tensor, kernel_size: PerAxis, dilation: PerAxis, stride: PerAxis, is_causal: PerAxisBool
) -> tuple[Axis, Axis]:
    kernels, dilations = _pair("kernel_size", kernel_size, int), _pair("dilation", dilation, int)
    strides, causal = _pair("stride", stride, int), _pair("is_causal", is_causal, bool)
    for axis, length in enumerate(x.shape[1:3]):
        name = f"on axis {axis} ({'rows' if axis == 0 else 'columns'})"
        kernel, step = kernels[axis], dilations[axis]
        if kernel < 1:
            raise ValueError(f"kernel_size must be at least 1, got {kernel} {name}")
        if step < 1:
            raise ValueError(f"dilation must be at least 1, got {step} {name}")
        if not 1 <= strides[axis] <= kernel:
            raise ValueError(f"stride must be between 1 and kernel_size, {kernel}, got {strides[axis]} {name}")
        if kernel * step > length:
            raise ValueError(
                f"kernel_size * dilation must not exceed the map, {length} {name}, got {kernel} * {step}: "
                "use a smaller window, or pad the map"
            )
    rows, columns = (
        Axis(x.shape[axis + 1], kernels[axis], dilations[axis], strides[axis], causal[axis]) for axis in (0, 1)
    )
    return rows, columns


def _pair(name: str, value: Any, kind: type) -> tuple[Any, Any]:
    """One value per axis from a value for both or a pair."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be one {kind.__name__} or a pair (rows, columns), got {len(pair)} values")
    for entry in pair:
        if not isinstance(entry, kind) or (kind is int and isinstance(entry, bool)):
            raise TypeError(f"{name} must be made of {kind.__name__}, got {entry!r}")
    return pair
