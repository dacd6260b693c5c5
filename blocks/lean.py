"""GELU whose result is computed again on the way back instead of kept: quick to compute, and large.

Shape legend: B batch, H W map, C channels, M hidden channels of a perceptron.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import Mlp, register_notrace_module
from torch import Tensor, nn

from .convolution import ChannelsLastConv2d


@register_notrace_module  # it runs another way where gradients are wanted
class LeanMlp(Mlp):
    """timm's `Mlp` with GELU, (..., C) -> (..., C), which keeps what comes before GELU only.

    Args:
        dim: channels C.
        hidden_dim: channels M.
        drop: dropout after each linear layer; with it everything is kept.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__(dim, hidden_dim, act_layer=nn.GELU, drop=drop)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        x = self.fc1(x)
        x = self.fc2(self.drop1(self.act(x))) if torch.jit.is_scripting() else self._lean(x)
        return self.drop2(x)

    @torch.jit.ignore
    def _lean(self, x: Tensor) -> Tensor:
        """(..., M) -> (..., C)."""
        if self.drop1.p == 0 and is_kept(x) and are_plain(self.act, self.fc2):
            return _GeluLinear.apply(x, self.fc2.weight, self.fc2.bias)
        return self.fc2(self.drop1(self.act(x)))


def is_kept(x: Tensor) -> bool:
    """Whether a tensor is kept for a way back; compilers choose themselves what to compute again."""
    return x.requires_grad and torch.is_grad_enabled() and not torch.compiler.is_compiling()


def are_plain(*layers: nn.Module) -> bool:
    """Whether layers are what they were built as: none wrapped, replaced, parametrized or listened to."""
    return all(
        type(layer) in (nn.GELU, nn.Linear, ChannelsLastConv2d)
        and not (layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks)
        for layer in layers
    )


def gelu_conv(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """conv(gelu(x)) that keeps x: (B, H, W, C) -> (B, H', W', C')."""
    x = x.permute(0, 3, 1, 2)
    return _GeluConv.apply(x, conv.weight, conv.bias, conv.stride, conv.padding, conv.groups).permute(0, 2, 3, 1)


# Gradients are in operators of torch, so that they can be differentiated again. Under autocast a result has another
# dtype than what it is made of.
class _GeluLinear(torch.autograd.Function):
    """linear(gelu(x)): (..., M) -> (..., C)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.linear(F.gelu(x), weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows, of_weight = grad.flatten(0, -2), None
        if ctx.needs_input_grad[1]:
            of_weight = (rows.mT @ F.gelu(x).to(grad.dtype).flatten(0, -2)).to(weight.dtype)
        of_hidden = grad @ weight.to(grad.dtype)
        of_x = torch.ops.aten.gelu_backward(of_hidden.to(x.dtype), x)
        return of_x, of_weight, rows.sum(0).to(weight.dtype)


class _GeluConv(torch.autograd.Function):
    """convolution(gelu(x)): (B, C, H, W) -> (B, C', H', W')."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, groups: int) -> Tensor:
        return F.conv2d(F.gelu(x), weight, bias, stride, padding, groups=groups)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, *ctx.geometry = inputs
        ctx.bias_shape = None if bias is None else list(bias.shape)
        ctx.save_for_backward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, groups = ctx.geometry
        hidden, kernel = F.gelu(x).to(grad.dtype), weight.to(grad.dtype)
        of_hidden, of_weight, of_bias = torch.ops.aten.convolution_backward(
            grad,
            hidden,
            kernel,
            ctx.bias_shape,
            stride,
            padding,
            (1, 1),
            False,
            (0, 0),
            groups,
            ctx.needs_input_grad[:3],
        )
        of_x = torch.ops.aten.gelu_backward(of_hidden.to(x.dtype), x)
        of_weight, of_bias = (None if part is None else part.to(weight.dtype) for part in (of_weight, of_bias))
        return of_x, of_weight, of_bias, None, None, None
