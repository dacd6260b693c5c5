"""Fixtures of the kernel tests: poisoned memory, and a faster Triton interpreter."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy
import pytest
import torch
from comparison import poisoned_memory


@pytest.fixture
def poisoned_allocations() -> Iterator[None]:
    """Fills fresh memory with NaN, so that a read before a write is visible in the result."""
    with poisoned_memory():
        yield


@pytest.fixture
def quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes Triton's interpreter faster and stricter.

    It does not check every integer operation, and it prepares the language once per kernel. Every address that a kernel
    reads or writes must be inside one of its tensors.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    from attnzoo.kernels import triton_launch

    options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)

    # preparing patches the language in the modules that a function uses; it is undone when a kernel ends
    prepared: set[object] = set()
    call, start = interpreter.InterpretedFunction.__call__, interpreter.GridExecutor.__call__

    def call_quickly(function, *args, **kwargs):
        if function.fn in prepared:
            return function.rewrite()(*args, **kwargs)
        prepared.add(function.fn)
        return call(function, *args, **kwargs)

    def start_afresh(executor, *args, **kwargs):
        prepared.clear()
        memory[:] = [
            (x.untyped_storage().data_ptr(), x.untyped_storage().nbytes())
            for x in triton_launch.flat((*args, *kwargs.values()))
            if isinstance(x, torch.Tensor)
        ]
        return start(executor, *args, **kwargs)

    # on a real device this may be an illegal address
    memory: list[tuple[int, int]] = []

    def within_memory(access, place_of_mask):
        def checked(builder, pointers, *rest):
            addresses = pointers.data[rest[place_of_mask].data]
            inside = numpy.zeros(addresses.shape, dtype=bool)
            for start, size in memory:
                inside |= (addresses >= start) & (addresses < start + size)
            assert inside.all(), "a kernel reads or writes outside of its tensors"
            return access(builder, pointers, *rest)

        return checked

    for name, place_of_mask in (("create_masked_load", 0), ("create_masked_store", 1)):
        access = getattr(interpreter.InterpreterBuilder, name)
        monkeypatch.setattr(interpreter.InterpreterBuilder, name, within_memory(access, place_of_mask))

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call_quickly)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", start_afresh)
