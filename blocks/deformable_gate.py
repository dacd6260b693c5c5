"""Weights of channels and positions from a deformable convolution. Shape legend: B batch, C channels, H W map."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from .convolution import depthwise
from .deformable import warp


class DeformableConv(nn.Module):
    """A 3x3 convolution that samples at learned offsets and weights its samples: (B, C, H, W) -> (B, out_dim, H, W).

    Outside of the map are zeros. It computes what `torchvision.ops.deform_conv2d` does, in operators that can be
    exported.

    Args:
        dim: input channels C.
        out_dim: output channels.

    Source: Deformable ConvNets v2, arXiv 1811.11168, section 3.2, equation 1.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        # per sample an offset down, an offset to the right and a weight
        self.offset = nn.Conv2d(dim, 27, 3, padding=1)
        # zero offsets: it starts as a plain convolution
        for parameter in self.offset.parameters():
            nn.init.zeros_(parameter)
        self.conv = nn.Conv2d(dim, out_dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_dim, H, W)."""
        # (B, 9, 3, H, W) -> (B, 9, H, W, 3)
        offsets = self.offset(x).unflatten(1, (9, 3)).permute(0, 1, 3, 4, 2)
        samples = []
        for i, offset in enumerate(offsets.unbind(1)):
            place = offset[..., :2] + torch.tensor([i // 3 - 1, i % 3 - 1], dtype=x.dtype, device=x.device)
            samples.append(warp(x, place) * offset[..., 2].sigmoid().unsqueeze(1))
        # (B, 9 C, H, W), as the convolution's weight (out_dim, C, 3, 3) with its positions first
        weight = self.conv.weight.flatten(2).transpose(1, 2).flatten(1).unsqueeze(2).unsqueeze(3)
        return nn.functional.conv2d(torch.cat(samples, 1), weight, self.conv.bias)


class DeformableGate(nn.Module):
    """Weights a map by the sigmoid of a deformable convolution over fewer channels: (B, C, H, W) -> (B, C, H, W).

    From the paper's text, unverified: there is no official code, and the order of the norms and the weights of the
    samples could not be compared with it. The paper places it at the end of stages.

    Args:
        dim: channels C.
        ratio: share of the channels that the deformable convolution reads.

    Source: DAS, A Deformable Attention to Capture Salient Information in CNNs, arXiv 2311.12091.
    """

    def __init__(self, dim: int, ratio: float = 0.2) -> None:
        super().__init__()
        hidden = max(int(dim * ratio), 1)
        self.depthwise = depthwise(dim, 3)
        self.pointwise = nn.Conv2d(dim, hidden, 1)
        # one group per channel: an instance norm
        self.norm1 = nn.GroupNorm(hidden, hidden)
        self.act = nn.GELU()
        self.deformable = DeformableConv(hidden, dim)
        self.norm2 = LayerNorm2d(dim, eps=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        narrow, norm = self.pointwise(self.depthwise(x)), self.norm1
        # the module refuses maps of a single position
        narrow = torch.group_norm(narrow, norm.num_groups, norm.weight, norm.bias, norm.eps)
        return x * self.norm2(self.deformable(self.act(narrow))).sigmoid()
