"""Differentiable gradients for eager executions whose own backward pass is not differentiable."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


def differentiable_gradients(
    attend: Callable[[], Tensor], inputs: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Computes the gradients for a caller with `create_graph=True`.

    Args:
        attend: function that computes the output from the inputs with operators that autograd can differentiate twice.
        inputs: inputs of the operator; the gradient of an input that is None or needs no gradient is None.
        grad: gradient of the output, in the shape of the output.
    """
    # the fused kernels have no second derivative
    with sdpa_kernel(SDPBackend.MATH):
        out = attend()
    wanted = [x for x in inputs if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=True))
    return tuple(next(found) if x is not None and x.requires_grad else None for x in inputs)
