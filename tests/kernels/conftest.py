"""What the kernels' tests run under: poisoned memory, and an interpreter of Triton that is quick enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest
from comparison import poisoned_memory


@pytest.fixture
def poisoned_allocations() -> Iterator[None]:
    """Fresh memory holds NaN, so that a read before a write shows."""
    with poisoned_memory():
        yield


@pytest.fixture
def quick_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter without its check of every integer operation, and preparing the language once per kernel."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
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
        return start(executor, *args, **kwargs)

    monkeypatch.setattr(interpreter.InterpretedFunction, "__call__", call_quickly)
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", start_afresh)
