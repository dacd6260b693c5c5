"""Choice of the execution of an operator: `reference`, `eager` or `triton`.

Every operator lists its executions. A backend named by the caller runs or raises an error. With `None` a backend is
chosen, and `explain` gives the reason. While a model is traced for export or scripted, the choice is always `eager`,
which consists of ordinary operators.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .fallback import cause_of_failure
from .transforms import is_transformed

BACKENDS = ("reference", "eager", "triton")
# dtypes and the largest head width that the Triton kernels support
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
TRITON_WIDTH = 256
# the oldest NVIDIA devices that the kernels are written and compiled for
OLDEST_CAPABILITY = (8, 0)
_IS_TRITON_INSTALLED = importlib.util.find_spec("triton") is not None


class Choice(NamedTuple):
    """A chosen backend and the reason as a sentence."""

    backend: str
    reason: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


def choose(operator: str, executions: Mapping[str, Any], backend: str | None, *tensors: Tensor) -> Choice:
    """Chooses the execution of an operator for its tensors.

    Args:
        operator: name of the operator, for messages.
        executions: executions of the operator by backend name.
        backend: the caller's choice, one of `BACKENDS`, or None.
        tensors: the operator's inputs (.., width); device, dtype and width matter.

    Returns:
        The backend to run and the reason.

    Raises:
        TypeError: `backend` is neither a string nor None.
        ValueError: `backend` is unknown, this operator does not have it, or it cannot run on these tensors.
    """
    if backend is not None:
        if not isinstance(backend, str):
            raise TypeError(f"backend must be a string or None, got {type(backend).__name__}")
        if backend not in BACKENDS:
            raise ValueError(f"backend {backend!r} is unknown: use one of {', '.join(BACKENDS)}, or None to choose")
        if backend not in executions:
            raise ValueError(
                f"{operator} has no {backend} execution in this version: "
                f"use one of {', '.join(executions)}, or None to choose"
            )
        obstacle = _triton_obstacle(tensors) if backend == "triton" else None
        if obstacle is not None:
            raise ValueError(f"backend='triton' cannot run because {obstacle}: use backend=None to choose, or 'eager'")
        return Choice(backend, "named by the caller")
    if torch.compiler.is_exporting():
        return Choice("eager", "the model is being exported, and only eager is made of ordinary operators")
    device = tensors[0].device.type
    if device != "cuda":
        return Choice("eager", f"the tensors are on {device}, where Triton does not run")
    if "triton" not in executions:
        return Choice("eager", f"{operator} has no triton execution in this version")
    obstacle = _triton_obstacle(tensors)
    if obstacle is not None:
        return Choice("eager", obstacle)
    cause = cause_of_failure(operator, device, tensors[0].device.index)
    if cause is not None:
        return Choice("eager", f"a kernel of {operator} could not be started on this device before: {cause}")
    return Choice("triton", "the tensors are on a CUDA or ROCm device")


def _triton_obstacle(tensors: tuple[Tensor, ...]) -> str | None:
    """Returns the reason why Triton cannot run on these tensors, or None if it can."""
    if not _is_triton_installed():
        return "triton is not installed"
    if tensors[0].device.type != "cuda" and not _is_interpreting():
        return (
            f"the tensors are on {tensors[0].device.type}, and Triton runs on CUDA and ROCm devices "
            "(elsewhere only in its interpreter, with TRITON_INTERPRET=1 set before Python starts)"
        )
    if tensors[0].device.type == "cuda" and _capability(tensors[0].device.index) < OLDEST_CAPABILITY:
        major, minor = _capability(tensors[0].device.index)
        return (
            f"the kernels need a device of compute capability {OLDEST_CAPABILITY[0]}.{OLDEST_CAPABILITY[1]} or newer, "
            f"and this one has {major}.{minor}"
        )
    if is_transformed():
        return "the kernels have no rule for the transforms of torch.func and for forward-mode differentiation"
    for x in tensors:
        if x.dtype not in TRITON_DTYPES:
            return f"the kernels support float32, bfloat16 and float16, but the tensors are {x.dtype}"
        if x.shape[-1] > TRITON_WIDTH:
            return f"the kernels support heads of up to {TRITON_WIDTH} channels, but the tensors have {x.shape[-1]}"
    return None


# constant within a process, so a compiler need not trace them
@torch.compiler.assume_constant_result
def _is_triton_installed() -> bool:
    return _IS_TRITON_INSTALLED


@torch.compiler.assume_constant_result
def _capability(index: int | None) -> tuple[int, int]:
    # on ROCm, capabilities count differently; without a device nothing speaks against the kernels
    if torch.version.hip or not torch.cuda.is_available():
        return OLDEST_CAPABILITY
    return torch.cuda.get_device_capability(index)


@torch.compiler.assume_constant_result
def _is_interpreting() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def explain(operator: Callable[..., Any], *tensors: Tensor, backend: str | None = None) -> Choice:
    """Reports which execution an operator would run on tensors like these, and the reason.

    Args:
        operator: a public operator of `attnzoo.kernels`.
        tensors: one or more of the operator's inputs; only device, dtype and width matter.
        backend: the `backend` argument of the call.

    Returns:
        The choice; its `str()` is a sentence.

    Raises:
        TypeError: `operator` is not an operator of this package, or no tensor is given.
        ValueError: the operator would reject `backend`.

    Example:
        >>> print(explain(neighborhood_attention, torch.zeros(1)))
        eager: the tensors are on cpu, where Triton does not run
    """
    executions = getattr(operator, "executions", None)
    if executions is None:
        raise TypeError(f"{operator!r} is not an operator of attnzoo.kernels: pass one such as neighborhood_attention")
    if not tensors:
        raise TypeError("pass at least one input tensor of the operator after the operator")
    for x in tensors:
        if not isinstance(x, Tensor):
            raise TypeError(f"tensors must be input tensors of the operator, got {type(x).__name__}")
    return choose(operator.__name__, executions, backend, *tensors)
