"""Single-head attention over part of the channels, and the block of convolutions around it.

Shape legend: B batch, C channels, P channels with attention, D channels of a query, H W map, N = H * W.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from .convolution import ConvNorm, ResidualConv
from .mlp import ConvNormMlp


class SingleHeadAttention(nn.Module):
    """Single-head attention over the first P channels, then a projection of all: (B, C, H, W) -> (B, C, H, W).

    The last norm is initialized to zero, so a residual branch of this layer starts as zero.

    Args:
        dim: channels C.
        partial_dim: channels P with attention, 1 .. C; the others go to the projection without a norm.
        qk_dim: channels D of queries and keys.

    Raises:
        ValueError: `partial_dim` is out of range.

    Source: SHViT, arXiv 2401.16456, section 3.2.
    """

    def __init__(self, dim: int, partial_dim: int, qk_dim: int = 16) -> None:
        super().__init__()
        if not 1 <= partial_dim <= dim:
            raise ValueError(f"partial_dim must be 1 .. dim, got {partial_dim} of {dim} channels")
        self.widths = [qk_dim, qk_dim, partial_dim]
        self.parts = [partial_dim, dim - partial_dim]
        self.norm = nn.GroupNorm(1, partial_dim)
        self.qkv = ConvNorm(partial_dim, sum(self.widths), channels_last=False)
        self.act = nn.ReLU(inplace=True)
        self.proj = ConvNorm(dim, dim, channels_last=False)
        nn.init.zeros_(self.proj.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        height, width = x.shape[2:]
        x, rest = x.split(self.parts, dim=1)
        # (B, D | D | P, H, W) -> (B, 1, N, D | D | P), the 1 being the head
        q, k, v = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).split(self.widths, dim=3)
        x = F.scaled_dot_product_attention(q, k, v)
        # (B, 1, N, P) -> (B, P, H, W)
        x = x.squeeze(1).transpose(1, 2).unflatten(2, (height, width))
        return self.proj(self.act(torch.cat((x, rest), dim=1)))


class SingleHeadBlock(nn.Module):
    """Residual 3x3 depthwise convolution, attention and MLP of 1x1 convolutions: (B, C, H, W) -> (B, C, H, W).

    Args:
        dim: channels C.
        mixer: a token mixer, (B, C, H, W) -> (B, C, H, W); None for none.
        mlp_ratio: hidden channels of the MLP divided by C.
        drop_path: probability that a sample skips the mixer or the MLP in training.
        zero_conv: whether the norm of the depthwise convolution is initialized to zero.

    Source: SHViT, arXiv 2401.16456, figure 4.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module | None = None,
        mlp_ratio: float = 2.0,
        drop_path: float = 0.0,
        zero_conv: bool = False,
    ) -> None:
        super().__init__()
        self.conv = ResidualConv(dim, 3, norm=True, channels_last=False)
        if zero_conv:
            nn.init.zeros_(self.conv.get_parameter("conv.norm.weight"))
        self.attn = mixer
        self.mlp = ConvNormMlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        x = self.conv(x)
        if self.attn is not None:
            x = x + self.drop_path(self.attn(x))
        return x + self.drop_path(self.mlp(x))
