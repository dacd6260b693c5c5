"""Helpers that the operators share: marking operators, choosing an execution, checking arguments.

Shape legend: B batch, H W map, h heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from .backends import choose
from .fallback import EXECUTIONS

PerAxis = int | Sequence[int]
PerAxisBool = bool | Sequence[bool]
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Layout:
    """Axes of an operator's tensors, for messages.

    Attributes:
        name: what the tensors are.
        tensor: all axes of a tensor.
        count: the number of these axes, in words.
        axes: names of the axes that have a window.
    """

    name: str
    tensor: str
    count: str
    axes: tuple[str, ...]


MAP = Layout("map", "(B, H, W, heads, width)", "five", ("rows", "columns"))
SEQUENCE = Layout("sequence", "(B, L, heads, width)", "four", ("positions",))


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
    """Returns the scale of the scores: the caller's, or D ** -0.5 for q (.., D)."""
    if scale is None:
        return q.shape[-1] ** -0.5
    # float() would detach a tensor from its gradient
    if isinstance(scale, bool) or not isinstance(scale, (int, float, torch.SymInt, torch.SymFloat)):
        raise TypeError(
            f"scale must be a number or None, got {type(scale).__name__}: multiply q by a learned scale and pass 1.0"
        )
    return float(scale)


def autocast(*tensors: Any) -> tuple[Any, ...]:
    """Casts floating-point tensors except float64 to the autocast dtype, as torch does for its own attention."""
    if not torch._C._is_any_autocast_enabled():
        return tensors
    device = next((x.device.type for x in tensors if isinstance(x, Tensor)), "cpu")
    if not knows_autocast(device) or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() and x.dtype != torch.float64 else x
        for x in tensors
    )


@torch.compiler.assume_constant_result  # older versions of torch.compile cannot trace this
def knows_autocast(device: str) -> bool:
    """Returns whether torch has autocast for a type of device."""
    return torch.amp.is_autocast_available(device)


def check_tensors(layout: Layout = MAP, /, **tensors: Tensor) -> None:
    """Checks that tensors of a layout are floating point and agree in dtype, device and leading axes."""
    first_name, first = next(iter(tensors.items()))
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor {layout.tensor}, got {type(x).__name__}")
        if x.ndim != len(layout.axes) + 3:
            raise ValueError(
                f"{name} must have {layout.count} axes {layout.tensor}, got {tuple(x.shape)}: "
                "split the channels into heads with unflatten(-1, (heads, width))"
            )
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {x.dtype}")
        if x.shape[-2] < 1 or x.shape[-1] < 1:
            raise ValueError(f"{name} must have at least one head and one channel per head, got {tuple(x.shape)}")
        if x.shape[:-1] != first.shape[:-1]:
            raise ValueError(
                f"{name} must have the batch, {layout.name} and heads of {first_name}, {tuple(first.shape[:-1])}, "
                f"got {tuple(x.shape[:-1])}"
            )
        if x.dtype != first.dtype:
            raise TypeError(f"{name} must have the dtype of {first_name}, {first.dtype}, got {x.dtype}")
        if x.device != first.device:
            raise ValueError(f"{name} must be on the device of {first_name}, {first.device}, got {x.device}")


def check_same_width(q: Tensor, k: Tensor) -> None:
    """Checks that queries and keys have the same width."""
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(f"k must have the width of q, {q.shape[-1]}, got {k.shape[-1]}")


def check_bias(bias: Tensor | None, q: Tensor, window: tuple[int, ...]) -> None:
    """Checks that the relative position table fits the window: (heads, 2 * rows - 1, 2 * columns - 1) on a map."""
    expected = q.shape[-2], *(2 * side - 1 for side in window)
    if len(window) == 1:
        axes, purpose = "(heads, 2 * kernel_size - 1)", f"a window of {window[0]}"
    else:
        axes, purpose = "(heads, 2 * rows - 1, 2 * columns - 1)", f"a {window[0]} x {window[1]} window"
    check_table("bias", bias, q, expected, axes, purpose)


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
    rows, columns = values_of(name, value, kind, MAP)
    return rows, columns


def values_of(name: str, value: Any, kind: type, layout: Layout) -> tuple[Any, ...]:
    """Returns one value per axis of a layout, from one for all of them or from one per axis."""
    if type(value) is kind:
        return (value,) * len(layout.axes)
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * len(layout.axes)
    if torch.jit.is_tracing():
        # sizes are tensors
        values = tuple(kind(entry) if isinstance(entry, Tensor) else entry for entry in values)
    one = f"one {kind.__name__}"
    if len(values) != len(layout.axes):
        allowed = f"{one} or a pair (rows, columns)" if layout is MAP else f"{one} for a {layout.name}"
        raise ValueError(f"{name} must be {allowed}, got {len(values)} values")
    for entry in values:
        # a dynamic size of an exporter or compiler counts as an int
        is_number = kind is int and isinstance(entry, torch.SymInt)
        if not (isinstance(entry, kind) or is_number) or (kind is int and isinstance(entry, bool)):
            allowed = f"{one} or a pair of {kind.__name__}s" if layout is MAP else f"{one} for a {layout.name}"
            raise TypeError(f"{name} must be {allowed}, got {entry!r}")
    return values
