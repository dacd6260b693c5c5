"""Errors for inputs that are changed in place between the forward and the backward pass.

torch raises such an error for tensors that an operation saves. An execution that saves copies of its inputs would use
the old values in the backward pass, where another execution of the operator raises: `checked` makes both raise.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .tracing import is_traced
from .transforms import is_transformed


def checked(out: Tensor, *inputs: Tensor | None) -> Tensor:
    """Returns the output of an operator; its backward pass raises torch's error if an input was changed in place.

    Args:
        out: the output, a new tensor.
        inputs: the inputs whose changes matter; None is skipped.
    """
    if not out.requires_grad or is_traced() or is_transformed():
        return out
    same: Tensor = _Checked.apply(out, *inputs)
    return same


class _Checked(torch.autograd.Function):
    """The identity of its first argument; saves the others."""

    @staticmethod
    def forward(ctx: Any, out: Tensor, *inputs: Tensor | None) -> Tensor:
        ctx.save_for_backward(*inputs)
        return out.view_as(out)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # torch compares the versions when the tensors are read
        return grad, *(None for _ in ctx.saved_tensors)
