"""The layers of SHViT: attention with one head on a part of the channels, among convolutions with batch norms.

Maps are channel-first, for they meet convolutions only. Shape legend: B batch, C channels, H W map, P attended
channels, D width of queries and keys.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
import torch
import torch.nn.functional as F
from timm.layers import DropPath, GroupNorm1, SqueezeExcite
from torch import Tensor, nn

from .convolution import ConvNorm, ResidualConv


class SingleHeadAttention(nn.Module):
    """Attention with one head, of every pixel to all others, on the first channels: (B, C, H, W) -> (B, C, H, W).

    The other channels pass by, without the norm, and are projected together with the result.

    Args:
        dim: channels C.
        attended_dim: channels P that attend, up to C.
        key_dim: width D of queries and keys.

    Raises:
        ValueError: more channels are to attend than there are.

    Source: SHViT, arXiv 2401.16456, section 3.2, figure 4 and equation 2.
    """

    def __init__(self, dim: int, attended_dim: int, key_dim: int = 16) -> None:
        super().__init__()
        if not 1 <= attended_dim <= dim:
            raise ValueError(f"attended_dim must be 1 .. {dim}, the channels there are, got {attended_dim}")
        self.widths = [key_dim, key_dim, attended_dim]
        self.scale = key_dim**-0.5
        self.norm = GroupNorm1(attended_dim)
        self.qkv = ConvNorm(attended_dim, sum(self.widths), channels_last=False)
        self.proj = ConvNorm(dim, dim, channels_last=False)
        nn.init.zeros_(self.proj.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        attended, rest = x.split([self.widths[2], x.shape[1] - self.widths[2]], 1)
        # (B, 2D + P, H, W) -> (B, D, HW) twice, and (B, P, HW)
        q, k, v = self.qkv(self.norm(attended)).flatten(2).split(self.widths, 1)
        # (B, HW, HW); widths of keys and values differ, which keeps fused kernels away on a CPU
        weights = ((q * self.scale).transpose(1, 2) @ k).softmax(-1)
        # (B, HW, P) -> (B, P, H, W)
        out = (weights @ v.transpose(1, 2)).transpose(1, 2).reshape(attended.shape)
        return self.proj(F.relu(torch.cat([out, rest], 1)))


class ConvMlp(nn.Module):
    """Two 1x1 convolutions with batch norms, ReLU between them: (B, C, H, W) -> (B, C, H, W).

    Args:
        dim: channels C.
        hidden_dim: channels in between.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = ConvNorm(dim, hidden_dim, channels_last=False)
        self.fc2 = ConvNorm(hidden_dim, dim, channels_last=False)
        nn.init.zeros_(self.fc2.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.fc2(F.relu(self.fc1(x)))


class SingleHeadBlock(nn.Module):
    """A 3x3 depthwise convolution, attention and an MLP, each of them residual: (B, C, H, W) -> (B, C, H, W).

    Args:
        dim: channels C.
        attended_dim: channels that attend, see `SingleHeadAttention`; 0 for no attention.
        drop_path: probability that a sample skips attention or MLP in training.

    Source: SHViT, arXiv 2401.16456, section 3.3, figure 5.
    """

    def __init__(self, dim: int, attended_dim: int = 0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.conv = ResidualConv(dim, norm=True, channels_last=False)
        self.attn: SingleHeadAttention | None = SingleHeadAttention(dim, attended_dim) if attended_dim else None
        self.mlp = ConvMlp(dim, 2 * dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self.conv(x)
        if self.attn is not None:
            x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))


class SqueezeMerging(nn.Module):
    """An inverted bottleneck of stride 2 with squeeze and excitation: (B, C, H, W) -> (B, out_dim, ⌈H/2⌉, ⌈W/2⌉).

    Args:
        dim: channels C.
        out_dim: channels of the result.

    Source: SHViT, arXiv 2401.16456, section 3.3; EfficientViT, arXiv 2305.07027, section 4.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        hidden_dim = 4 * dim
        self.conv1 = ConvNorm(dim, hidden_dim, channels_last=False)
        self.conv2 = ConvNorm(hidden_dim, hidden_dim, 3, stride=2, groups=hidden_dim, channels_last=False)
        self.se = SqueezeExcite(hidden_dim, rd_ratio=0.25)
        self.conv3 = ConvNorm(hidden_dim, out_dim, channels_last=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, out_dim, ⌈H/2⌉, ⌈W/2⌉)."""
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        return self.conv3(self.se(x))
