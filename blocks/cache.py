"""A value that a module computes from its parameters alone, cached for inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Value = TypeVar("Value")

# larger values are computed at every call: of large maps they would fill the memory
LARGEST = 2**22


class Cache:
    """The last value computed for a module, kept in evaluation without gradients until a parameter changes.

    A copy of a module, or one read from a file, starts with an empty cache.
    """

    def __init__(self) -> None:
        self._entry: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_entry": None}

    def get(self, module: nn.Module, key: object, numbers: int, compute: Callable[[], Value]) -> Value:
        """The value for a key, computed where it is not there.

        Args:
            module: whose parameters it depends on.
            key: what else it depends on, such as the size of a map.
            numbers: how many numbers it has; a value of more than `LARGEST` is not cached.
            compute: takes nothing.
        """
        parameters = list(module.parameters())
        is_constant = not (module.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        if not is_constant or numbers > LARGEST or any(x.is_inference() for x in parameters):
            return compute()
        # changes in place count a tensor's version up
        state = key, tuple((x.data_ptr(), x._version, x.device) for x in parameters)
        # read once: another thread may replace the entry
        entry = self._entry
        if entry is None or entry[0] != state:
            self._entry = entry = state, compute()
        value: Value = entry[1]
        return value

    def clear(self) -> None:
        """Empties the cache."""
        self._entry = None
