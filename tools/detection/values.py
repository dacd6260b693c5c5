"""Values of annotations, as different programs write them: numbers also as floats and text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

# an integer must fit into an int64 tensor
_LARGEST = 2**63 - 1

_SWITCHES = {"0": False, "1": True, "false": False, "true": True, "none": False}


def number(value: Any) -> float | None:
    """Returns a finite number as a float; None for any other value."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        read = float(value)
    except (ValueError, OverflowError):
        return None
    return read if math.isfinite(read) else None


def integer(entry: Mapping[str, Any], key: str, where: str) -> int:
    """Returns an integer such as 7, 7.0 or "7".

    Raises:
        ValueError: the value is missing, or not an integer of 64 bits.
    """
    given = entry.get(key)
    read = given
    if isinstance(read, str) and len(read) < 40:
        # not through a float, which would round large ids
        stripped = read.strip().removesuffix(".0")
        read = int(stripped) if stripped.removeprefix("-").isdecimal() else read
    if isinstance(read, float) and read.is_integer():
        read = int(read)
    if not isinstance(read, int) or isinstance(read, bool) or abs(read) > _LARGEST:
        raise ValueError(f"{where}: {key} must be an integer, got {shortened(given)}")
    return read


def text(entry: Mapping[str, Any], key: str, where: str) -> str:
    """Returns a text; a number becomes a text.

    Raises:
        ValueError: the value is missing, or not a text.
    """
    value = entry.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) <= _LARGEST:
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"{where}: {key} must be text, got {shortened(value)}")
    return value


def switch(entry: Mapping[str, Any], key: str, where: str) -> bool:
    """Returns whether a value such as 1, True or "1" is set; False if it is missing.

    Raises:
        ValueError: the value is neither 0 nor 1.
    """
    value = entry.get(key)
    read = value if isinstance(value, (str, bool)) or value is None else number(value)
    name = f"{read:g}" if isinstance(read, float) else str(read).strip().lower()
    if name not in _SWITCHES:
        raise ValueError(f"{where}: {key} must be 0 or 1, got {shortened(value)}")
    return _SWITCHES[name]


def shortened(value: Any) -> str:
    """Returns a value for a message, with at most 80 characters."""
    try:
        written = repr(value)
    # an integer of more digits than Python prints
    except ValueError:
        return f"a {type(value).__name__} that is too long to print"
    return written if len(written) <= 80 else f"{written[:77]}..."
