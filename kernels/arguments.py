"""Helpers that the operators share: marking operators, choosing an execution, checking arguments.

Shape legend: B batch, H W map, h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from .backends import choose
from .fallback import EXECUTIONS

PerAxis = int | Sequence[int]
PerAxisBool = bool | Sequence[bool]
F = TypeVar("F", bound=Callable[..., Any])


def operator(**executions: Callable[..., Tensor]) -> Callable[[F], F]:
    """Marks a function as an operator and records its executions by backend name."""

    def mark(function: F) -> F:
        function.executions = executions  # type: ignore[attr-defined]
        EXECUTIONS[function.__name__] = executions
        return function

    return mark


def execution_of(function: Callable[..., Any], backend: str | None, *tensors: Tensor) -> Callable[..., Tensor]:
    """Returns the execution of an operator for these tensors, see `choose`; a chosen one may fall back to eager."""
    executions = function.executions  # type: ignore[attr-defined]
    chosen = choose(function.__name__, executions, backend, *tensors).backend
    if chosen == "triton" and backend is None:
        return partial(executions[chosen], may_fall_back=True)
    return executions[chosen]


def scale_or_default(scale: float | None, q: Tensor) -> float:
    """Returns the scale of the scores: the caller's, or D ** -0.5 for q (B, H, W, h, D)."""
    if scale is None:
        return q.shape[4] ** -0.5
    # float() would detach a tensor from its gradient
    if isinstance(scale, bool) or not isinstance(scale, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(
            f"scale must be a number or None, got {type(scale).__name__}: multiply q by a learned scale and pass 1.0"
        )
    return float(scale)


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """Casts floating-point tensors except float64 to the autocast dtype, as torch does for its own attention."""
    devices = [x.device.type for x in tensors if isinstance(x, Tensor)]
    device = devices[0] if devices else "cpu"
    if not _knows_autocast(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x
        for x in tensors
    )


@torch.compiler.assume_constant_result  # older versions of torch.compile cannot trace this
def _knows_autocast(device: str) -> bool:
    return torch.amp.is_autocast_available(device)


def check_tensors(**tensors: Tensor) -> None:
    """Checks that tensors (B, H, W, heads, .) are floating point and agree in dtype, device and leading axes."""
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
            raise ValueError(f"{name} must have at least one head and one channel per head, got {tuple(x.shape)}")
        if x.shape[:4] != first.shape[:4]:
            raise ValueError(
                f"{name} must have the batch, map and heads of {first_name}, {tuple(first.shape[:4])}, "
                f"got {tuple(x.shape[:4])}"
            )
        if x.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {x.dtype}")
        if x.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {x.device}")


def check_same_width(q: Tensor, k: Tensor) -> None:
    """Checks that queries and keys have the same width."""
    if q.shape[4] != k.shape[4]:
        raise ValueError(f"k must have the width of q, {q.shape[4]}, got {k.shape[4]}")


def check_bias(bias: Tensor | None, q: Tensor, window: tuple[int, int]) -> None:
    """Checks that the relative position table fits the window: (heads, 2 * rows - 1, 2 * columns - 1)."""
    expected = q.shape[3], 2 * window[0] - 1, 2 * window[1] - 1
    axes = "(heads, 2 * rows - 1, 2 * columns - 1)"
    check_table("bias", bias, q, expected, axes, f"a {window[0]} x {window[1]} window")


def check_table(name: str, table: Tensor | None, q: Tensor, expected: tuple[int, ...], axes: str, purpose: str) -> None:
    """Checks type, shape and device of an optional table; `axes` and `purpose` are used in messages."""
    if table is None:
        return
    if not isinstance(table, Tensor):
        raise TypeError(f"{name} must be a tensor or None, got {type(table).__name__}")
    if not table.is_floating_point():
        raise TypeError(f"{name} must be floating point, got {table.dtype}")
    if tuple(table.shape) != expected:
        raise ValueError(f"{name} must be a table {axes} = {expected} for {purpose}, got {tuple(table.shape)}")
    if table.device != q.device:
        raise ValueError(f"{name} must be on the device of q, {q.device}, got {table.device}")


def pair_of(name: str, value: Any, kind: type) -> tuple[Any, Any]:
    """Returns a pair (rows, columns) from one value for both axes or from a pair."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"{name} must be one {kind.__name__} or a pair (rows, columns), got {len(pair)} values")
    for entry in pair:
        # a dynamic size of an exporter or compiler counts as an int
        is_number = kind is int and isinstance(entry, torch.SymInt)
        if not (isinstance(entry, kind) or is_number) or (kind is int and isinstance(entry, bool)):
            raise TypeError(f"{name} must be one {kind.__name__} or a pair of {kind.__name__}s, got {entry!r}")
    return pair
