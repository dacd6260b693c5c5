"""Residual blocks: the transformer block around any token mixer, and a generic residual branch.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable

import torch
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

from .mlp import Mlp


class TransformerBlock(nn.Module):
    """x + scale(mixer(norm(x))), then the same with an MLP: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        mixer: a token mixer, (B, H, W, C) -> (B, H, W, C); None for a block with the MLP alone.
        mlp_ratio: hidden channels of the MLP divided by C.
        layer_scale: initial value of the layer scale of both branches; None for no layer scale.
        drop_path: probability that a sample skips a branch in training.
        proj_drop: dropout rate inside the MLP.
        norm_layer: builds a norm over the channels.
        pos_embed: layer before the mixer's branch, such as a `ResidualConv` that encodes positions by its padding.
        pos_embed2: layer before the MLP's branch.
        mlp: custom MLP, (B, H, W, C) -> (B, H, W, C); None for an `Mlp` with `mlp_ratio` and `proj_drop`.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module | None,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        pos_embed: nn.Module | None = None,
        pos_embed2: nn.Module | None = None,
        mlp: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Identity() if pos_embed is None else pos_embed
        self.norm1 = nn.Identity() if mixer is None else norm_layer(dim)
        self.attn = mixer
        self.ls1 = nn.Identity() if layer_scale is None or mixer is None else LayerScale(dim, init_values=layer_scale)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.pos_embed2 = nn.Identity() if pos_embed2 is None else pos_embed2
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), proj_drop) if mlp is None else mlp
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, init_values=layer_scale)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.pos_embed(x)
        if self.attn is not None:
            x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        x = self.pos_embed2(x)
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class Residual(nn.Module):
    """x + branch(x). Blocks whose norms and scales are part of the branches are sequences of these.

    Args:
        branch: a module that keeps the shape of its input.
        drop_path: probability that a sample skips the branch in training.
        scaled_dim: channels C of a learned scale of the shortcut, which begins as one; None for none.

    Source: NormFormer, arXiv 2110.09456, for the scale of the shortcut.
    """

    def __init__(self, branch: nn.Module, drop_path: float = 0.0, scaled_dim: int | None = None) -> None:
        super().__init__()
        self.scale: nn.Parameter | None = None if scaled_dim is None else nn.Parameter(torch.ones(scaled_dim))
        self.branch = branch
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """A tensor -> a tensor of the same shape, (.., C) with a scale of the shortcut."""
        out = self.drop_path(self.branch(x))
        if self.scale is not None:
            return torch.addcmul(out, x, self.scale)
        return x + out
