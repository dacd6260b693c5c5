"""What a module computes from its parameters alone, computed once for inference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Value = TypeVar("Value")

# biases of more numbers are computed at every call: of large maps they would fill the memory
KEPT_NUMBERS = 2**22


class Kept:
    """The last thing computed for a module, kept in evaluation without gradients until a parameter changes.

    A copy of a module, or one read from a file, starts with nothing kept.
    """

    def __init__(self) -> None:
        self._entry: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_entry": None}

    def once(self, module: nn.Module, key: object, numbers: int, compute: Callable[[], Value]) -> Value:
        """What `compute` returns, or returned for the same key.

        Args:
            module: whose parameters it depends on.
            key: what it depends on beside them, such as the size of a map.
            numbers: how many numbers it has; more than `KEPT_NUMBERS` are not kept.
            compute: takes nothing.
        """
        parameters = list(module.parameters())
        is_constant = not (module.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        if not is_constant or numbers > KEPT_NUMBERS or any(x.is_inference() for x in parameters):
            return compute()
        # changes in place count a tensor's version up
        state = tuple((x.data_ptr(), x._version, x.device) for x in parameters)
        if self._entry is None or self._entry[0] != (key, state):
            self._entry = (key, state), compute()
        value: Value = self._entry[1]
        return value

    def forget(self) -> None:
        """Keeps nothing."""
        self._entry = None
