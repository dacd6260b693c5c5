"""The residual blocks of OverLoCK: a static block for the overview, and a block guided by the overview.

Both scale the shortcut and not the branch: "x * scale + branch(x)". The scale is implemented as a product, which keeps
the shortcut in float32 under autocast; a 1x1 convolution would round it to 16 bits in every block.

Shape legend: B batch, H W map, C channels of the map, S of its context.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from .contmix import ContMix
from .convolution import ResidualConv
from .mlp import ResponseMlp
from .reparam import DilatedReparamConv
from .squeeze_excite import SqueezeExcite


class ChannelScale(nn.Module):
    """x * weight + bias, per channel: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x * self.weight + self.bias


class ReparamConvBlock(nn.Module):
    """A large convolution and an MLP in one branch: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        kernel_size: kernel size of the large convolution, odd, from 5 to 19.
        mlp_ratio: hidden channels of the MLP divided by C.
        scaled: whether the shortcut has a learned scale.
        drop_path: probability that a sample skips the branch in training.

    Source: OverLoCK, arXiv 2502.20087, section 3.2, "basic block".
    """

    def __init__(
        self, dim: int, kernel_size: int, mlp_ratio: float = 4.0, scaled: bool = False, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.conv = ResidualConv(dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.mixer = DilatedReparamConv(dim, kernel_size)
        self.se = SqueezeExcite(dim)
        self.mlp = ResponseMlp(dim, int(dim * mlp_ratio))
        self.ls = ChannelScale(dim) if scaled else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.conv(x)
        return self.ls(x) + self.drop_path(self.mlp(self.se(self.mixer(self.norm(x)))))


class FocusBlock(nn.Module):
    """ContMix and an MLP, guided by a context that every block updates: (B, H, W, C + S) -> (B, H, W, C + S).

    Args:
        dim: channels C of the map.
        context_dim: channels S of the context.
        num_heads: heads of ContMix.
        kernel_size: large kernel size of ContMix, odd, from 5 to 19.
        small_kernel_size: small kernel size of ContMix.
        mlp_ratio: hidden channels of the MLP divided by C, without S.
        refreshed: whether the prior is added to the context first; the context of the first block is the prior itself.
        drop_path: probability that a sample skips a branch in training.

    Source: OverLoCK, arXiv 2502.20087, section 3.2, "dynamic block".
    """

    def __init__(
        self,
        dim: int,
        context_dim: int,
        num_heads: int,
        kernel_size: int = 7,
        small_kernel_size: int = 5,
        mlp_ratio: float = 3.0,
        refreshed: bool = True,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.dim, self.refreshed = dim, refreshed
        out_dim = dim + context_dim
        self.context_scale = ChannelScale(context_dim) if refreshed else nn.Identity()
        self.prior_scale = ChannelScale(context_dim) if refreshed else nn.Identity()
        self.conv1 = ResidualConv(out_dim)
        self.norm1 = nn.LayerNorm(out_dim, eps=1e-6)
        self.mixer = ContMix(dim, context_dim, num_heads, kernel_size, small_kernel_size)
        self.ls1 = ChannelScale(out_dim)
        self.conv2 = ResidualConv(out_dim)
        self.norm2 = nn.LayerNorm(out_dim, eps=1e-6)
        self.mlp = ResponseMlp(out_dim, int(dim * mlp_ratio))
        self.ls2 = ChannelScale(out_dim)
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor, prior: Tensor) -> Tensor:
        """The map and its context (B, H, W, C + S), and the prior (B, H, W, S) -> (B, H, W, C + S)."""
        if self.refreshed:
            context = self.context_scale(x[..., self.dim :]) + self.prior_scale(prior)
            x = torch.cat([x[..., : self.dim], context], -1)
        x = self.conv1(x)
        x = self.ls1(x) + self.drop_path(self.mixer(self.norm1(x)))
        x = self.conv2(x)
        return self.ls2(x) + self.drop_path(self.mlp(self.norm2(x)))
