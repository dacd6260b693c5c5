"""A large depthwise convolution with parallel smaller, dilated ones, which fuse into one.

Shape legend: B batch, H W map, C channels, K side of the large kernel, k side and r dilation of a smaller one.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .convolution import ConvNorm
from .norm import as_affine, is_constant
from .shortcuts import is_observed, is_unmodified

# (k, r) of the branches parallel to a K x K kernel: the published choices, which follow no rule
_BRANCHES = {
    5: ((3, 1), (3, 2)),
    7: ((5, 1), (3, 1), (3, 2), (3, 3)),
    9: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4)),
    11: ((5, 1), (7, 1), (5, 2), (3, 3), (3, 4), (3, 5)),
    13: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 4), (3, 5)),
    15: ((5, 1), (7, 1), (7, 2), (3, 3), (3, 5), (3, 7)),
    17: ((5, 1), (7, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
    19: ((5, 1), (7, 1), (9, 1), (9, 2), (3, 4), (3, 5), (3, 7)),
}


@register_notrace_module  # the arithmetic depends on the dtype of the parameters
class DilatedReparamConv(nn.Module):
    """norm(sum of depthwise convolutions, each with a norm): (B, H, W, C) -> (B, H, W, C).

    One convolution is K x K. The others are smaller, and dilation gives them a larger extent. They are computed one by
    one only in training: in evaluation mode the norms are constant, and the kernels are summed to a single convolution,
    unless a branch has hooks or was replaced. `fuse` keeps that convolution and drops the branches.

    Args:
        dim: channels C.
        kernel_size: K, odd, from 5 to 19.

    Raises:
        ValueError: there are no branches for `kernel_size`.

    Source: UniRepLKNet, arXiv 2311.15599, section 3.1, figure 2; the norm after the sum is from OverLoCK.
    """

    def __init__(self, dim: int, kernel_size: int) -> None:
        super().__init__()
        if kernel_size not in _BRANCHES:
            raise ValueError(f"kernel_size must be one of {', '.join(map(str, _BRANCHES))}, got {kernel_size}")
        self.kernel_size = kernel_size
        self.large = ConvNorm(dim, dim, kernel_size, groups=dim)
        self.dilations = [r for _, r in _BRANCHES[kernel_size]]
        # the values of a ModuleDict are untyped
        self.dilated: Any = nn.ModuleDict(
            {f"k{k}_{r}": ConvNorm(dim, dim, k, groups=dim, dilation=r) for k, r in _BRANCHES[kernel_size]}
        )
        self.norm: Any = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if self.training or not self._is_mergeable():
            total = self.large(x)
            for branch in self.dilated.values():
                total = total + branch(x)
            return self.norm(total.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        weight, bias = self._as_one()
        x = x.permute(0, 3, 1, 2)
        x = F.conv2d(x, weight.to(x.dtype), bias.to(x.dtype), padding=self.kernel_size // 2, groups=x.shape[1])
        return x.permute(0, 2, 3, 1)

    def fuse(self) -> nn.Module:
        """Returns one convolution that computes the same; the layer itself if a branch was replaced."""
        return self.merge().fuse() if self._is_mergeable() else self

    @torch.no_grad()
    def merge(self) -> ConvNorm:
        """Returns the layer of re-parameterised checkpoints: one convolution for all branches, and the last norm."""
        weight, bias = self._branches_as_one()
        merged = ConvNorm(len(bias), len(bias), self.kernel_size, groups=len(bias), bias=True)
        merged.to(weight.device, self.large.conv.weight.dtype).train(self.training)
        merged.conv.weight.copy_(weight)
        assert merged.conv.bias is not None
        merged.conv.bias.copy_(bias)
        merged.norm = self.norm
        return merged

    def _is_mergeable(self) -> bool:
        if torch.jit.is_scripting():
            return True
        return self._is_unmodified()

    @torch.jit.unused
    def _is_unmodified(self) -> bool:
        layers = [self.large, *self.dilated.values()]
        return (
            is_constant(self.norm)
            and all(is_constant(layer.norm) and is_unmodified(layer.conv, nn.Conv2d) for layer in layers)
            and not is_observed(*self.modules())
        )

    def _as_one(self) -> tuple[Tensor, Tensor]:
        """Returns kernel (C, 1, K, K) and bias (C) of the whole layer in evaluation mode, in float32 at least."""
        weight, bias = self._branches_as_one()
        norm = self.norm
        scale, shift = as_affine(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
        return weight * scale[:, None, None, None], bias * scale + shift

    def _branches_as_one(self) -> tuple[Tensor, Tensor]:
        """Returns kernel (C, 1, K, K) and bias (C) of the sum of all branches, in float32 at least."""
        norm = self.large.norm
        scale, bias = as_affine(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
        weight = self.large.conv.weight * scale[:, None, None, None]
        for i, branch in enumerate(self.dilated.values()):
            norm = branch.norm
            scale, shift = as_affine(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
            kernel, step = branch.conv.weight, self.dilations[i]
            first = self.kernel_size // 2 - step * (kernel.shape[-1] // 2)
            last = self.kernel_size - first
            weight[:, :, first:last:step, first:last:step] += kernel * scale[:, None, None, None]
            bias = bias + shift
        return weight, bias
