"""What eager executions do under the transforms of `torch.func`, forward-mode differentiation and second derivatives.

The fast executions on a CPU write into given memory and have their own backward pass, which torch cannot transform.
There the output is computed by operators that torch can differentiate any number of times.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from .tracing import is_plain, is_traced


def is_transformed() -> bool:
    """Returns whether a transform of `torch.func` or forward-mode differentiation is active, outside of tracers."""
    if is_traced():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def transformable(attend: Callable[[], Tensor]) -> Tensor:
    """Returns `attend()`, computed without fused kernels, which have no second derivative and no batching rule."""
    with sdpa_kernel(SDPBackend.MATH):
        return attend()


def needs_differentiable_gradients(grad: Tensor) -> bool:
    """Returns whether gradients are differentiated or transformed, given the gradient of the output.

    This is so with `create_graph=True` or `is_grads_batched=True`, and under the transforms of `is_transformed`.
    """
    return torch.is_grad_enabled() or is_transformed() or torch._C._functorch.is_legacy_batchedtensor(grad)


def is_ordinary(grad: Tensor, saved: Sequence[Tensor | None]) -> bool:
    """Returns whether nothing intercepts or differentiates what computes gradients.

    Args:
        grad: gradient of the output.
        saved: what the forward pass saved.
    """
    return is_plain(grad, *[x for x in saved if x is not None]) and not needs_differentiable_gradients(grad)


def differentiable_gradients(
    attend: Callable[..., Tensor], inputs: Sequence[Tensor | None], grad: Tensor
) -> tuple[Tensor | None, ...]:
    """Computes gradients with operators that torch can differentiate and transform.

    Args:
        attend: function of the inputs that computes the output with operators that autograd can differentiate twice.
        inputs: inputs of the operator; the gradient of an input that is None or needs no gradient is None.
        grad: gradient of the output, in the shape of the output.
    """
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        # where one input is another one, or is computed from it, each has the gradient of its own part
        parts = [None if x is None else x.view_as(x) for x in inputs]
        out = transformable(lambda: attend(*parts))
    wanted = [x for x in parts if x is not None and x.requires_grad]
    found = iter(torch.autograd.grad(out, wanted, grad, create_graph=create_graph))
    return tuple(next(found) if x is not None and x.requires_grad else None for x in parts)
