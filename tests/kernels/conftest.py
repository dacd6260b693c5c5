"""What the kernels' tests run under: poisoned memory, and an interpreter of Triton that is quick enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy
import pytest
import torch
from comparison import poisoned_memory


@pytest.fixture
def poisoned_allocations() -> Iterator[None]:
    """Fresh memory holds NaN, so that a read before a write shows."""
    with poisoned_memory():
        yield


@pytest.fixture
def quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter, quicker and stricter.

    It does not check every integer operation, and prepares the language once per kernel; but every address that a
    kernel reads or writes must lie in one of its tensors.
    """
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    from attnzoo.kernels import triton_launch

    options = dataclasses.replace(interpreter.interpreter_builder.options, sanitize_overflow=False)
    monkeypatch.setattr(interpreter.interpreter_builder, "options", options)

    # preparing means patching the language, in the modules that a function sees; a kernel's end undoes it
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

    # what a real device may answer with an illegal address
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
