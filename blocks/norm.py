"""Norms and channel scales. Shape legend: B batch, H W map, C channels."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from typing import TypeGuard

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn


class ChannelsLastBatchNorm2d(nn.Module):
    """`torch.nn.BatchNorm2d`, as the submodule `norm`, for maps (B, H, W, C).

    Args:
        dim: channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


@register_notrace_module  # the dtype of the map is checked
class Affine(nn.Module):
    """A scale and a shift per channel: (B, H, W, C) -> (B, H, W, C), or for maps (B, C, H, W).

    Args:
        dim: channels C.
        channels_last: whether maps are (B, H, W, C) instead of (B, C, H, W).
    """

    def __init__(self, dim: int, channels_last: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """A map -> a map of the same shape."""
        if not x.is_floating_point():
            raise TypeError("the map must have a floating dtype: normalize images of integers first")
        if self.channels_last:
            return x * self.weight + self.bias
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class CenteredNorm(nn.Module):
    """Subtracts the mean over the channels and divides by the L2 norm of the rest: (.., C) -> (.., C).

    It is a layer norm whose output is smaller by √C, with a weight and no bias. Norms far below 1e-6 count as 1e-6.

    Args:
        dim: channels C.

    Source: ParCNetV2, arXiv 2211.07157, official code.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(.., C) -> (.., C)."""
        dim = self.weight.shape[0]
        return F.layer_norm(x, [dim], self.weight * dim**-0.5, None, 1e-12 / dim)


@register_notrace_module  # the arithmetic depends on the dtype of the map
class GlobalResponseNorm(nn.Module):
    """x * (1 + gamma * N) + beta, where N is the norm of a channel over the map, divided by the mean of all norms.

    The norms are computed in float32 at least: the squares of a map overflow float16, and epsilon is smaller than the
    smallest float16 number.

    Args:
        dim: channels C.

    Source: ConvNeXt V2, arXiv 2301.00808, section 3.2.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(dim))
        self.beta = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        exact = x if x.dtype == torch.float64 else x.float()
        # several times faster than torch's norm; the minimum keeps the gradient of a map of zeros finite
        norms = exact.square().sum((1, 2), keepdim=True).clamp(min=1e-37).sqrt()
        scale = 1 + self.gamma * (norms / (norms.mean(-1, keepdim=True) + 1e-6))
        return (x * scale + self.beta).to(x.dtype)


def is_constant(norm: nn.Module) -> TypeGuard[nn.BatchNorm2d]:
    """Returns whether a norm is torch's own batch norm, in evaluation mode and with running statistics."""
    return type(norm) in (nn.BatchNorm2d, nn.SyncBatchNorm) and not norm.training and norm.running_var is not None


def as_affine(
    weight: Tensor, bias: Tensor, mean: Tensor | None, variance: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Returns scale and shift (C,) such that a batch norm is "x * scale + shift", in float32 at least.

    Args:
        weight, bias: learned parameters (C,).
        mean, variance: running statistics (C,); they must not be None.
        eps: the epsilon added to the variance.
    """
    assert mean is not None
    assert variance is not None
    if weight.dtype != torch.float64:
        weight, bias, mean, variance = weight.float(), bias.float(), mean.float(), variance.float()
    scale = weight * torch.rsqrt(variance + eps)
    return scale, bias - mean * scale
