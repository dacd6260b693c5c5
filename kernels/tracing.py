"""What the eager executions must know of tracers: whether one is looking, and how to keep its tensors out of caches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import _disable_current_modes


def is_traced() -> bool:
    """Whether a compiler, exporter or tracer is looking: then only operators that it knows may run."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_free(*sizes: int) -> bool:
    """Whether an exporter leaves one of these sizes free: then it is a symbol, and nothing may ask what it is."""
    return torch.compiler.is_exporting() and any(isinstance(size, torch.SymInt) for size in sizes)


@contextmanager
def real_tensors() -> Iterator[None]:
    """What is cached must serve every later call: no fake, meta or inference tensors of the one that came first."""
    with _disable_current_modes(), torch.device("cpu"), torch.inference_mode(False):
        yield
