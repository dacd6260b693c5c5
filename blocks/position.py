"""Learned absolute position embeddings."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, resample_abs_pos_embed, trunc_normal_
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic


@register_notrace_module  # whether to interpolate depends on the size of the map
class PositionEmbedding(nn.Module):
    """Adds a learned vector to every pixel: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        map_size: the map (rows, columns) that the vectors are learned on; they are interpolated to other sizes.
        interpolation: `bilinear` or `bicubic`.
        class_tokens: tokens before those of the map, which also have position vectors.
    """

    def __init__(
        self, dim: int, map_size: tuple[int, int], interpolation: str = "bilinear", class_tokens: int = 0
    ) -> None:
        super().__init__()
        self.map_size = map_size
        self.interpolation = interpolation
        self.class_tokens = class_tokens
        self.table = nn.Parameter(
            trunc_normal_(torch.zeros(1, class_tokens + map_size[0] * map_size[1], dim), std=0.02)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x + self.at(x.shape[1], x.shape[2]).reshape(1, x.shape[1], x.shape[2], -1)

    def at(self, height: int, width: int) -> Tensor:
        """Returns the position vectors for a map size, (1, class_tokens + H * W, C)."""
        if is_dynamic([height, width]):
            return self._at_dynamic(height, width)
        return resample_abs_pos_embed(
            self.table,
            [height, width],
            list(self.map_size),
            num_prefix_tokens=self.class_tokens,
            interpolation=self.interpolation,
            antialias=False,
        )

    @torch.jit.unused
    def _at_dynamic(self, height: int, width: int) -> Tensor:
        """Computes the same as `at`, without a branch on whether the map has the size of the table."""
        prefix, of_map = self.table.split([self.class_tokens, self.map_size[0] * self.map_size[1]], 1)
        # (1, rows * columns, C) -> (1, C, rows, columns) -> (1, H * W, C)
        grid = of_map.unflatten(1, self.map_size).permute(0, 3, 1, 2)
        resized = F.interpolate(grid, [height, width], mode=self.interpolation).flatten(2).transpose(1, 2)
        return torch.cat([prefix, resized], 1)
