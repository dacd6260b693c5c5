"""A cache, for inference, of a value that a module computes from its parameters alone."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn

from attnzoo.kernels import cache
from attnzoo.kernels.tracing import is_traced
from attnzoo.kernels.transforms import is_transformed

Value = TypeVar("Value")


class Cache:
    """Keeps the last value computed for a module, in evaluation mode without gradients, until a parameter changes.

    On a CPU the parameters are compared with those of the last call, since writes through `.data` or NumPy leave no
    trace; on a GPU, where that would wait for the device, call `clear` after such a write.

    A copy of a module, or one read from a file, starts with an empty cache. Values are kept in the cache that modules
    and operators share, see `attnzoo.kernels.cache`.
    """

    def __init__(self) -> None:
        self._key = object()
        weakref.finalize(self, cache.remove, self._key)

    def __reduce__(self) -> tuple[type[Cache], tuple[()]]:
        return Cache, ()

    def get(self, module: nn.Module, key: object, compute: Callable[[], Value]) -> Value:
        """Returns the value for a key, and computes it if it is not cached.

        Args:
            module: the module whose parameters the value depends on.
            key: everything else that the value depends on, such as the map size.
            compute: computes the value, without arguments.
        """
        parameters = list(module.parameters())
        if module.training or torch.is_grad_enabled() or is_traced() or is_transformed():
            return compute()
        # quantized tensors have no memory of their own to compare; a compiler cannot ask this
        if not all(type(x) in (nn.Parameter, torch.Tensor) and not x.is_inference() for x in parameters):
            return compute()
        # in-place changes increase the version of a tensor
        state = key, tuple((x.data_ptr(), x._version, x.device) for x in parameters)
        # read once: another thread may replace the entry
        entry: Any = cache.read(self._key)
        if entry is None or entry[0] != state or not _are_equal(parameters, entry[1]):
            copies = [x.detach().clone() for x in parameters]
            entry = state, copies, compute()
            cache.write(self._key, entry)
        value: Value = entry[2]
        return value

    def clear(self) -> None:
        """Empties the cache."""
        cache.remove(self._key)


def _are_equal(parameters: list[nn.Parameter], copies: list[torch.Tensor]) -> bool:
    return all(x.device.type != "cpu" or torch.equal(x, copy) for x, copy in zip(parameters, copies, strict=True))
