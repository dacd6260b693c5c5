"""What happens where a Triton kernel cannot be compiled or launched.

A backend that the caller named raises `KernelError`. Where Triton was chosen, eager computes the same call, one warning
gives the cause, and eager is chosen for that operator and device from then on.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

# the executions of every operator, by its name and by backend
EXECUTIONS: dict[str, Mapping[str, Callable[..., Any]]] = {}
# why the kernels of an operator could not be started on a device
_causes: dict[tuple[str, str, int | None], str] = {}


class KernelError(RuntimeError):
    """A Triton kernel could not be compiled or launched; its `__cause__` is the exception of Triton."""

    def __init__(self, kernel: str, error: BaseException) -> None:
        super().__init__(
            f"the Triton kernel {kernel} could not be compiled or launched: {root_cause(error)}; "
            "use backend='eager', or backend=None to choose"
        )
        self.reason = root_cause(error)


def root_cause(error: BaseException) -> str:
    """Returns type and first line of the exception that another one was raised from, at the end of the chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


# constant while a compiler traces: a failure later is handled at run time
@torch.compiler.assume_constant_result
def cause_of_failure(operator: str, device_type: str, index: int | None) -> str | None:
    """Returns why kernels of an operator could not be started on a device in this process; None if none failed."""
    return _causes.get((operator, device_type, index))


def has_failed() -> bool:
    """Returns whether kernels of any operator could not be started on any device in this process."""
    return bool(_causes)


def with_fallback(
    operator: str, device: torch.device, may_fall_back: bool, run: Callable[[], T], substitute: Callable[[], T]
) -> T:
    """Returns the result of `run`, or of `substitute` where kernels of the operator cannot be started.

    Args:
        operator: name of the operator.
        device: device of its tensors.
        may_fall_back: whether `substitute` may be used; without it, the error is raised.
        run: function that starts the kernels and returns new tensors.
        substitute: function that computes the same in eager.

    Raises:
        KernelError: a kernel could not be started and `may_fall_back` is false.
    """
    if not may_fall_back:
        return run()
    key = operator, device.type, device.index
    if key not in _causes:
        try:
            return run()
        except KernelError as error:
            _causes[key] = error.reason
            warnings.warn(
                f"the Triton kernels of {operator} cannot be used on {device}, so it runs in eager from now on: "
                f"{error.reason}",
                stacklevel=2,
            )
    return substitute()


def gradients(function: Callable[..., Tensor], inputs: Mapping[str, Tensor | None], dout: Tensor) -> dict[str, Tensor]:
    """Returns the gradients of inputs by name, from inside of an operator, where torch records nothing.

    Args:
        function: function of the inputs, by name; None stays None.
        inputs: the inputs to differentiate; the gradient of one that the result does not depend on is zero.
        dout: gradient of its result.
    """
    given = {name: x for name, x in inputs.items() if x is not None}
    stream = torch.cuda.current_stream(dout.device) if dout.device.type == "cuda" else None

    def differentiate() -> dict[str, Tensor]:
        with torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
            leaves = {name: x.detach().requires_grad_() for name, x in given.items()}
            with torch.enable_grad():
                out = function(**{**inputs, **leaves})
            if not out.requires_grad:
                return {name: torch.zeros_like(x) for name, x in leaves.items()}
            found = torch.autograd.grad(out, list(leaves.values()), dout, materialize_grads=True)
            return dict(zip(leaves, found, strict=True))

    # inside of an operator the calling thread does not record operations, a new thread does
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(differentiate).result()
