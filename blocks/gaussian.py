"""Gaussian adaptive attention along an axis. Shape legend: N length of the axis, h heads, G Gaussians."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math

import torch
from torch import Tensor, nn

EPS = 1e-8


class GaussianAttention(nn.Module):
    """Weights the values along an axis by a product of Gaussian densities: any shape -> the same shape.

    The axis is cut into a chunk per head, the last of which takes the remainder. The densities have learned offsets
    from the mean of a chunk and learned scales in units of its standard deviation. The weights of a chunk sum to 1.

    Args:
        num_heads: heads h.
        num_gaussians: densities G that are multiplied.
        axis: the axis.

    Source: Gaussian Adaptive Attention Is All You Need, arXiv 2401.11143, and its official code.
    """

    def __init__(self, num_heads: int = 4, num_gaussians: int = 5, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis
        self.offsets = nn.Parameter(torch.zeros(num_heads, num_gaussians))
        self.scales = nn.Parameter(torch.randn(num_heads, num_gaussians).exp())

    def forward(self, x: Tensor) -> Tensor:
        """Returns x times its weights, which are positive and sum to 1 along each chunk of the axis."""
        heads, length = self.offsets.shape[0], x.shape[self.axis]
        chunk = length // heads
        sizes = [chunk] * (heads - 1) + [length - chunk * (heads - 1)]
        parts = x.split(sizes, self.axis)
        return torch.cat([self._weighted(part, i) for i, part in enumerate(parts)], self.axis)

    def _weighted(self, x: Tensor, head: int) -> Tensor:
        offsets, scales = self.offsets[head], self.scales[head]
        mean = x.mean(self.axis, keepdim=True)
        deviation = (x.var(self.axis, keepdim=True) + EPS).sqrt()
        # sum over Gaussians of (centered - offset / deviation)^2 / (2 scale^2), as a polynomial of the centered value
        precisions = 0.5 / scales.square()
        centered = (x - mean) / deviation
        linear, constant = 2 * (precisions * offsets).sum(), (precisions * offsets.square()).sum()
        exponents = (precisions.sum() * centered - linear / deviation) * centered + constant / deviation.square()
        weights = (-exponents - 0.5 * (2 * math.pi * scales.square()).log().sum()).exp()
        return x * weights / weights.sum(self.axis, keepdim=True).clamp(min=EPS)


class GaussianBlock(nn.Module):
    """Gaussian adaptive attention in layers with shortcuts, along the channels: (B, C, H, W) -> (B, C, H, W).

    Args:
        dim: channels C.
        num_layers: layers.
        num_heads: heads of each layer, at most half as many as channels.
        num_gaussians: densities of each head.

    Raises:
        ValueError: a head would have fewer than two channels, of which there is no variance.

    Source: as `GaussianAttention`.
    """

    def __init__(self, dim: int, num_layers: int = 1, num_heads: int = 4, num_gaussians: int = 5) -> None:
        super().__init__()
        if dim < 2 * num_heads:
            raise ValueError(f"every head needs two channels, got {dim} channels for {num_heads} heads")
        self.layers = nn.Sequential(*(GaussianAttention(num_heads, num_gaussians) for _ in range(num_layers)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        for layer in self.layers:
            x = x + layer(x)
        return x
