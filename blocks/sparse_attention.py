"""Attention of each token to the keys that a low-rank prediction of the attention selects.

Shape legend: B batch, h heads, D channels per head, T tokens: one class token and those of the map, R basis vectors,
E = D / 2.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from fractions import Fraction

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from .attention import SelfAttention, attended
from .cpu import linear
from .resizing import has_size


@register_notrace_module  # whether to interpolate depends on the size of the map
class MaskPredictor(nn.Module):
    """Selects keys for every query: queries and keys (B, h, T, D) -> mask (B, h, T, T), True for kept keys.

    The attention of a query is predicted as a combination of R learned vectors over the keys. The largest coefficients
    are kept, then the keys with the largest predictions. The class token attends to all keys. The selection has no
    gradient: `predicted`, without any selection, is what the authors train to be close to the attention itself.

    On a map of another size the vectors are interpolated bilinearly over the map; those that sum over tokens are scaled
    by the ratio of the numbers of tokens.

    Args:
        num_heads: heads h.
        head_dim: channels D, even.
        map_size: the map (rows, columns) that the vectors are learned on.
        keep_rate: part of the keys that is kept, above 0 and up to 1; their number is rounded up.
        reduction: T divided by the number of vectors R, rounded down.
        num_coefficients: coefficients that are kept.
        threshold: entries of vectors up to this absolute value count as zero.

    Source: Sparsifiner, arXiv 2303.13755, section 3.2.
    """

    def __init__(
        self,
        num_heads: int,
        head_dim: int,
        map_size: tuple[int, int],
        keep_rate: float = 0.25,
        reduction: int = 6,
        num_coefficients: int = 8,
        threshold: float = 0.02,
    ) -> None:
        super().__init__()
        if not 0 < keep_rate <= 1:
            raise ValueError(f"keep_rate must be above 0 and at most 1, got {keep_rate}")
        tokens = 1 + map_size[0] * map_size[1]
        rank = max(tokens // reduction, 1)
        self.map_size = map_size
        # as in the official code: heads, not channels
        self.scale = num_heads**-0.5
        rate = Fraction(keep_rate).limit_denominator(1000)
        self.kept, self.of = rate.numerator, rate.denominator
        self.num_coefficients = min(num_coefficients, rank)
        self.threshold = threshold
        self.query = nn.Linear(head_dim, head_dim // 2)
        self.key = nn.Linear(head_dim, head_dim // 2)
        self.down = nn.Parameter(trunc_normal_(torch.zeros(tokens, rank), std=0.02))
        self.up = nn.Parameter(trunc_normal_(torch.zeros(tokens, rank), std=0.02))

    def forward(self, q: Tensor, k: Tensor, height: int, width: int) -> Tensor:
        """Queries and keys (B, h, T, D) -> mask (B, h, T, T)."""
        coefficients = self._coefficients(q, k, height, width)
        values, places = coefficients.topk(self.num_coefficients, sorted=False)
        coefficients = torch.zeros_like(coefficients).scatter(3, places, values)
        vectors = self._at(self.up, height, width).abs()
        vectors = vectors * (vectors > self.threshold)
        tokens = 1 + height * width
        count = (tokens * self.kept + self.of - 1) // self.of
        chosen = (coefficients @ vectors.t()).topk(count, sorted=False)[1]
        mask = torch.zeros([q.shape[0], q.shape[1], height * width, tokens], dtype=torch.bool, device=q.device)
        # the class token attends to all
        return F.pad(mask.scatter(3, chosen, 1), [0, 0, 1, 0], value=1.0)

    def predicted(self, q: Tensor, k: Tensor, height: int, width: int) -> Tensor:
        """Queries and keys (B, h, T, D) -> predicted attention of the tokens of the map (B, h, T - 1, T)."""
        return self._coefficients(q, k, height, width) @ self._at(self.up, height, width).t()

    def _coefficients(self, q: Tensor, k: Tensor, height: int, width: int) -> Tensor:
        """Returns the coefficient of each vector for the tokens of the map, (B, h, T - 1, R)."""
        down = self._at(self.down, height, width)
        if not has_size(height, width, self.map_size[0], self.map_size[1]):
            down = down * (self.down.shape[0] / (1 + height * width))
        # (B, h, E, T) @ (T, R)
        keys = linear(self.key, k).transpose(2, 3) @ down
        return ((linear(self.query, q[:, :, 1:]) @ keys) * self.scale).softmax(3)

    def _at(self, vectors: Tensor, height: int, width: int) -> Tensor:
        """Returns vectors (tokens, R) for a map of a size, (1 + H * W, R)."""
        if has_size(height, width, self.map_size[0], self.map_size[1]):
            return vectors
        # (rows * columns, R) -> (1, R, rows, columns)
        maps = vectors[1:].t().reshape(1, -1, self.map_size[0], self.map_size[1])
        return torch.cat([vectors[:1], F.interpolate(maps, [height, width], mode="bilinear")[0].flatten(1).t()])


class SparseAttention(SelfAttention):
    """Attention of class token and map to the keys that a `MaskPredictor` selects.

    Args:
        dim: channels, a multiple of num_heads.
        num_heads: heads h.
        map_size: the map (rows, columns) that the predictor is learned on.
        keep_rate: part of the keys that is kept.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or an invalid `keep_rate`.

    Source: Sparsifiner, arXiv 2303.13755, section 3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        map_size: tuple[int, int],
        keep_rate: float = 0.25,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.predictor = MaskPredictor(num_heads, self.head_dim, map_size, keep_rate)

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C), the class token first."""
        q, k, v = self._split(x)
        out = attended(q, k, v, self.predictor(q, k, height, width))
        return self.proj_drop(linear(self.proj, out))

    def reconstruction(self, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Attends to all keys: (B, T, C) -> (B, T, C), and the squared error of the predicted attention, a scalar."""
        q, k, v = self._split(x)
        weights = ((q * self.head_dim**-0.5) @ k.transpose(2, 3)).softmax(3)
        error = F.mse_loss(self.predictor.predicted(q, k, height, width), weights[:, :, 1:])
        return self.proj_drop(linear(self.proj, (weights @ v).transpose(1, 2).flatten(2))), error

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> queries, keys and values (B, h, T, D)."""
        qkv = linear(self.qkv, x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return qkv[0], qkv[1], qkv[2]
