"""What eager executions and layers must know of tracers: whether one is active, and which sizes it leaves dynamic.

A size that an exporter leaves dynamic is a symbol, and whoever branches on it fixes it. Three strategies serve such
sizes, in this order of preference:

1. Arithmetic on the symbol, without a branch: padding by a computed number of rows, the larger of two lengths, pooling
   as a product with a matrix of shares. A layer then has one form for any size. `attnzoo.blocks.resizing` has these.
2. Another formulation that needs no plan of the map: window attention counts its windows from the shape while the
   model runs (`kernels/window/eager_dynamic.py`), routed attention gathers regions without asking how large they are.
3. An opaque operator, where tracing the arithmetic takes minutes: neighborhood attention in tiles, and the mixing of
   OverLoCK. `define_dynamic` makes one: traced, it is one node with the shape of its result; run, it is the eager
   execution. `attnzoo.tools.export.dynamic_sizes` writes the node as standard ONNX operators.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import _disable_current_modes


def is_traced() -> bool:
    """Whether a compiler, exporter or tracer is active: then only operators that it knows may run."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_exporting() -> bool:
    """Whether a model is being exported. TorchScript reads it as False."""
    if torch.jit.is_scripting():
        return False
    return torch.compiler.is_exporting()


def is_dynamic(sizes: list[int]) -> bool:
    """Whether an exporter leaves one of these sizes dynamic: then it is a symbol, and no branch may depend on it.

    TorchScript reads it as False.
    """
    if torch.jit.is_scripting():
        return False
    return _has_symbol(sizes)


@torch.jit.unused
def _has_symbol(sizes: list[int]) -> bool:
    return torch.compiler.is_exporting() and any(isinstance(size, torch.SymInt) for size in sizes)


@contextmanager
def real_tensors() -> Iterator[None]:
    """What is cached must serve every later call: no fake, meta or inference tensors of the one that came first."""
    with _disable_current_modes(), torch.device("cpu"), torch.inference_mode(False):
        yield
