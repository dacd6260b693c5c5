"""The one cache of what operators and blocks keep between calls: plans, indices and biases, bounded in bytes.

All values together take at most 64 MiB, or as many MiB as the environment variable `ATTNZOO_CACHE_MIB` says. The least
recently used values are dropped, and a value that would take more than half of the limit is computed at every call.
"""

from __future__ import annotations

import copy
import itertools
import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from .tracing import fake_mode

P = ParamSpec("P")
T = TypeVar("T")

VARIABLE = "ATTNZOO_CACHE_MIB"
_DEFAULT = 64


class _Entry:
    """A value, its bytes, and when it was last used."""

    __slots__ = ("size", "used", "value")

    def __init__(self, value: Any, size: int) -> None:
        self.value, self.size, self.used = value, size, next(_uses)


_uses = itertools.count()
_entries: dict[Hashable, _Entry] = {}
# reentrant, because the end of a module may remove its value while an entry is added
_lock = threading.RLock()


def limit() -> int:
    """Returns the largest number of bytes of all values together.

    Raises:
        ValueError: the environment variable is not a number of MiB.
    """
    given = os.environ.get(VARIABLE, str(_DEFAULT))
    try:
        mebibytes = float(given)
    except ValueError:
        mebibytes = -1.0
    if not 0 <= mebibytes < 2**40:
        raise ValueError(f"{VARIABLE} must be a number of MiB, 0 or more, got {given!r}")
    return int(mebibytes * 2**20)


def read(key: Hashable) -> Any:
    """Returns the value of a key, or None if there is none."""
    entry = _entries.get(key)
    if entry is None:
        return None
    entry.used = next(_uses)
    return entry.value


def write(key: Hashable, value: Any, size: int | None = None) -> None:
    """Keeps a value, unless it is large, and drops the least recently used values beyond the limit.

    Args:
        key: the key to read it by.
        value: the value.
        size: its bytes; None to count those of its tensors.
    """
    most, size = limit(), size_of(value) if size is None else size
    with _lock:
        _entries.pop(key, None)
        if size > most // 2:
            return
        _entries[key] = _Entry(value, size)
        excess = total() - most
        for oldest in sorted(_entries, key=_last_use) if excess > 0 else ():
            entry = _entries.pop(oldest, None)
            excess -= 0 if entry is None else entry.size
            if excess <= 0:
                return


def remove(key: Hashable) -> None:
    """Drops the value of a key, if there is one."""
    with _lock:
        _entries.pop(key, None)


def total() -> int:
    """Returns the number of bytes of all values."""
    # of a copy: the end of a module may remove an entry meanwhile
    return sum(entry.size for entry in list(_entries.values()))


def _last_use(key: Hashable) -> int:
    entry = _entries.get(key)
    return -1 if entry is None else entry.used


def cached(function: Callable[P, T]) -> Callable[P, T]:
    """Keeps the results of a function of hashable arguments, which are given by position.

    Under torch's `FakeTensorMode`, which refuses other tensors, a result has fake ones.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        key = function, args
        value: T | None = read(key)
        if value is None:
            value = function(*args, **kwargs)
            write(key, value)
        mode = fake_mode()
        return value if mode is None else _faked(value, mode)

    return call


def _faked(value: Any, mode: FakeTensorMode) -> Any:
    """Returns a copy of dataclasses, tuples and lists whose tensors belong to a mode."""
    if isinstance(value, Tensor):
        return mode.from_tensor(value, static_shapes=True)
    if isinstance(value, (tuple, list)):
        parts = [_faked(part, mode) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    if is_dataclass(value):
        other = copy.copy(value)
        for field in fields(value):
            object.__setattr__(other, field.name, _faked(getattr(value, field.name), mode))
        return other
    return value


def size_of(value: Any) -> int:
    """Returns the bytes of all tensors in dataclasses, tuples and lists; memory that they share counts once."""
    found: dict[int, int] = {}
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, Tensor):
            storage = part.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        elif is_dataclass(part):
            parts.extend(getattr(part, field.name) for field in fields(part))
        elif isinstance(part, (tuple, list)):
            parts.extend(part)
    return sum(found.values())
