"""Helpers for tracing: whether a compiler, exporter or tracer is active, and which sizes are dynamic.

During export a dynamic size is a symbol, and a branch on the symbol fixes the size. Three strategies support dynamic
sizes, in this order of preference:

1. Arithmetic on the symbol, without a branch: padding by a computed number of rows, the maximum of two lengths,
   pooling as a product with a matrix of weights. A layer then has one form for any size, see `attnzoo.blocks.resizing`.
2. A formulation that needs no plan of the map: window attention computes the number of windows from the shape at run
   time (`kernels/window/eager_dynamic.py`), and routed attention gathers regions without reading their size.
3. An opaque operator, where tracing the arithmetic takes minutes: neighborhood attention in tiles, and the mixing of
   OverLoCK. `define_dynamic` defines one: in the trace it is one node with the shape of its result, and another node
   for the backward pass; at run time it is the eager execution. `attnzoo.tools.export.dynamic_sizes` writes the node as
   standard ONNX operators.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import has_static_value
from torch.utils._device import DeviceContext
from torch.utils._python_dispatch import _disable_current_modes

_PLAIN = {Tensor, torch.nn.Parameter}


def is_traced() -> bool:
    """Returns whether a compiler, exporter or tracer is active: then only operators that it supports may run."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def is_plain(*tensors: Tensor) -> bool:
    """Returns whether nothing intercepts operators on tensors: no tracer, transform, mode, subclass or profiler.

    The numbers in memory are those of the tensor, which is not so for one that torch negates when it is read.
    """
    return not (
        is_traced()
        or torch._C._len_torch_dispatch_stack()
        or (torch._C._len_torch_function_stack() and _has_function_mode())
        or torch._C._are_functorch_transforms_active()
        or torch.autograd._profiler_enabled()
        or not {type(x) for x in tensors}.issubset(_PLAIN)
        or any(map(Tensor.is_neg, tensors))
    )


def fake_mode() -> FakeTensorMode | None:
    """Returns the active `FakeTensorMode` if it refuses real tensors and no tracer is active."""
    if not torch._C._len_torch_dispatch_stack() or is_traced():
        return None
    keys = torch._C._TorchDispatchModeKey
    mode: FakeTensorMode | None = torch._C._get_dispatch_mode(keys.FAKE)
    if mode is None or mode.allow_non_fake_inputs or torch._C._get_dispatch_mode(keys.PROXY) is not None:
        return None
    return mode


def _has_function_mode() -> bool:
    """Whether a mode intercepts functions of torch; that of a default device only changes where tensors are created."""
    count = torch._C._len_torch_function_stack()
    modes = (torch._C._get_function_stack_at(place) for place in range(count))
    return any(not isinstance(mode, DeviceContext) for mode in modes)


def is_exporting() -> bool:
    """Returns whether a model is being exported; always False in TorchScript."""
    if torch.jit.is_scripting():
        return False
    return torch.compiler.is_exporting()


def is_dynamic(sizes: list[int]) -> bool:
    """Returns whether one of these sizes is dynamic during export: a symbol that no branch may depend on.

    Always False in TorchScript.
    """
    if torch.jit.is_scripting():
        return False
    return _has_symbol(sizes)


def is_symbolic(sizes: list[int]) -> bool:
    """Returns whether one of these sizes is a symbol of an exporter or of `torch.compile`, where it may be a constant.

    Unlike for `is_dynamic`, a branch on such a size may be allowed: it compiles a graph for every outcome. The sizes of
    `torch.jit.trace` are tensors; they become constants.
    """
    return not all(isinstance(size, Tensor) or has_static_value(size) for size in sizes)


@torch.jit.unused
def _has_symbol(sizes: list[int]) -> bool:
    return torch.compiler.is_exporting() and any(isinstance(size, torch.SymInt) for size in sizes)


@contextmanager
def real_tensors() -> Iterator[None]:
    """Makes all tensors created inside ordinary CPU tensors.

    Cached tensors are reused in later calls, so they must not be fake, meta or inference tensors of the first call, and
    not belong to a transform of `torch.func`; and `torch.jit.trace` must not record how they are computed.
    """
    state = torch._C._get_tracing_state()
    # inside of an operator torch refuses to set even no state
    if state is not None:
        torch._C._set_tracing_state(None)  # type: ignore[attr-defined]
    try:
        with torch._C._DisableFuncTorch(), _disable_current_modes(), torch.device("cpu"), torch.inference_mode(False):
            yield
    finally:
        if state is not None:
            torch._C._set_tracing_state(state)  # type: ignore[attr-defined]
