"""Which execution of an operator runs: `reference`, `eager` or `triton`.

An operator lists the executions it has. A backend named by the caller runs or raises; `None` chooses, and
`explain` says why. While a model is traced for export or scripted, the choice is always `eager`, the form made of
ordinary operators.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

BACKENDS = ("reference", "eager", "triton")


class Choice(NamedTuple):
    """A chosen backend and the reason, as a sentence."""

    backend: str
    reason: str

    def __str__(self) -> str:
        return f"{self.backend}: {self.reason}"


def choose(operator: str, executions: Mapping[str, Any], backend: str | None, device: torch.device) -> Choice:
    """Chooses the execution of an operator for tensors on a device.

    Args:
        operator: name of the operator, for messages.
        executions: what the operator has, by backend name.
        backend: the caller's wish, one of `BACKENDS`, or None.
        device: where the operator's tensors are.

    Returns:
        The backend to run and why.

    Raises:
        TypeError: `backend` is neither a string nor None.
        ValueError: `backend` is unknown, or this operator does not have it.
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
        return Choice(backend, "named by the caller")
    if torch.compiler.is_exporting():
        return Choice("eager", "the model is being exported, and only eager is made of ordinary operators")
    if "triton" in executions and device.type == "cuda":
        return Choice("triton", "the tensors are on a CUDA or ROCm device")
    if device.type == "cuda":
        return Choice("eager", f"{operator} has no triton execution in this version")
    return Choice("eager", f"the tensors are on {device.type}, where Triton does not run")


def explain(operator: Callable[..., Any], tensor: torch.Tensor, *, backend: str | None = None) -> Choice:
    """Says which execution an operator would run on tensors like this one, and why.

    Args:
        operator: a public operator of `attnzoo.kernels`.
        tensor: any of the operator's inputs; only its device matters.
        backend: what would be passed as `backend`.

    Returns:
        The choice; `str()` of it is a sentence.

    Raises:
        TypeError: `operator` is not an operator of this package, or `tensor` no tensor.
        ValueError: the operator would refuse `backend`.

    Example:
        >>> print(explain(neighborhood_attention, torch.zeros(1)))
        eager: the tensors are on cpu, where Triton does not run
    """
    executions = getattr(operator, "executions", None)
    if executions is None:
        raise TypeError(f"{operator!r} is not an operator of attnzoo.kernels: pass neighborhood_attention or the like")
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"tensor must be one of the operator's inputs, a tensor, got {type(tensor).__name__}")
    return choose(operator.__name__, executions, backend, tensor.device)
