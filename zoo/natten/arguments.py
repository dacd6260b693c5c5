"""`natten.types`, and the check of arguments that copies of NATTEN's layers call."""

from __future__ import annotations

from typing import Any

TYPES: dict[str, Any] = {}
for _axes in (1, 2, 3):
    for _name, _kind in (("Dimension", int), ("CausalArg", bool)):
        _values = tuple[(_kind,) * _axes]  # type: ignore[misc,valid-type]
        TYPES |= {f"{_name}{_axes}DType": _values, f"{_name}{_axes}DTypeOrDed": _kind | _values}
for _name in ("Dimension", "CausalArg"):
    _one, _two, _three = (TYPES[f"{_name}{_axes}DType"] for _axes in (1, 2, 3))
    TYPES[f"{_name}Type"] = _one | _two | _three


def check_all_args(
    na_dim: int, kernel_size: Any, dilation: Any, is_causal: Any
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[bool, ...]]:
    """Returns kernel size, dilation and causality with one value per axis, as in NATTEN 0.17.

    Raises:
        ValueError: an argument is neither one value nor one per axis.
    """
    dilation, is_causal = 1 if dilation is None else dilation, False if is_causal is None else is_causal
    sizes = _per_axis("kernel_size", kernel_size, int, na_dim), _per_axis("dilation", dilation, int, na_dim)
    return *sizes, _per_axis("is_causal", is_causal, bool, na_dim)


def _per_axis(name: str, value: Any, kind: type, axes: int) -> tuple[Any, ...]:
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * axes
    if len(values) != axes or not all(isinstance(entry, kind) for entry in values):
        raise ValueError(f"{name} must be one {kind.__name__} or {axes} of them, got {value!r}")
    return values
