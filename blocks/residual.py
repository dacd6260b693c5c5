"""The residual block that most transformers share, around any token mixer."""

from __future__ import annotations

from collections.abc import Callable

from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

from .linear import Mlp


class TransformerBlock(nn.Module):
    """x + scale(mixer(norm(x))), then the same with an MLP: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        mixer: a token mixer, (B, H, W, C) -> (B, H, W, C).
        mlp_ratio: hidden channels of the MLP over C.
        layer_scale: initial value of the learned scale of both branches; None for no scale.
        drop_path: probability that a sample skips a branch in training.
        proj_drop: dropout inside the MLP.
        norm_layer: makes a norm over channels.
        pos_embed: what the map goes through first, such as a `ResidualConv` that tells borders from the middle.
        mlp: what stands in the place of the MLP; None for one of mlp_ratio.
    """

    def __init__(
        self,
        dim: int,
        mixer: nn.Module,
        mlp_ratio: float = 4.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        pos_embed: nn.Module | None = None,
        mlp: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.pos_embed = nn.Identity() if pos_embed is None else pos_embed
        self.norm1 = norm_layer(dim)
        self.attn = mixer
        self.ls1 = nn.Identity() if layer_scale is None else LayerScale(dim, init_values=layer_scale)
        self.drop_path1 = DropPath(drop_path) if drop_path > 0 else nn.Identity()
        self.norm2 = norm_layer(dim)
        self.mlp = Mlp(dim, int(dim * mlp_ratio), proj_drop) if mlp is None else mlp
        self.ls2 = nn.Identity() if layer_scale is None else LayerScale(dim, init_values=layer_scale)
        self.drop_path2 = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = self.pos_embed(x)
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
