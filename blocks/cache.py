"""A cache, for inference, of a value that a module computes from its parameters alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

Value = TypeVar("Value")

# larger values, of large maps, are computed at every call: they would fill the memory
LARGEST = 2**22


class Cache:
    """Keeps the last value computed for a module, in evaluation mode without gradients, until a parameter changes.

    On a CPU the parameters are compared with those of the last call, since writes through `.data` or NumPy leave no
    trace; on a GPU, where that would wait for the device, call `clear` after such a write.

    A copy of a module, or one read from a file, starts with an empty cache.
    """

    def __init__(self) -> None:
        self._entry: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_entry": None}

    def get(self, module: nn.Module, key: object, numbers: int, compute: Callable[[], Value]) -> Value:
        """Returns the value for a key, and computes it if it is not cached.

        Args:
            module: the module whose parameters the value depends on.
            key: everything else that the value depends on, such as the map size.
            numbers: number of elements; a value with more than `LARGEST` is not cached.
            compute: computes the value, without arguments.
        """
        parameters = list(module.parameters())
        is_constant = not (module.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        if not is_constant or numbers > LARGEST or any(x.is_inference() for x in parameters):
            return compute()
        # in-place changes increase the version of a tensor
        state = key, tuple((x.data_ptr(), x._version, x.device) for x in parameters)
        # read once: another thread may replace the entry
        entry = self._entry
        if entry is None or entry[0] != state or not _are_equal(parameters, entry[1]):
            copies = [x.detach().clone() for x in parameters]
            self._entry = entry = state, copies, compute()
        value: Value = entry[2]
        return value

    def clear(self) -> None:
        """Empties the cache."""
        self._entry = None


def _are_equal(parameters: list[nn.Parameter], copies: list[torch.Tensor]) -> bool:
    return all(x.device.type != "cpu" or torch.equal(x, copy) for x, copy in zip(parameters, copies, strict=True))
