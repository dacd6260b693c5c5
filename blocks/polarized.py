"""Polarized self-attention: one weight per channel and one per position.

Shape legend: B batch, C channels, H W map, T = H * W. Maps are channel-first, as in timm's ResNets.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from timm.layers import LayerNorm2d
from torch import Tensor, nn


class PolarizedAttention(nn.Module):
    """Weights channels and positions by each other's means: (B, C, H, W) -> (B, C, H, W).

    The layouts differ, as in the official code, in more than their order. In parallel, both weighted maps are added,
    and positions are normalized after the query is applied. In sequence, the channels' weights come from an MLP with a
    layer norm, and the positions of each channel of the values are normalized before the query is applied. The paper
    normalizes the channels of the query instead, and has the layer norm in both.

    Means and 1x1 convolutions commute, so most convolutions are applied to means here, not to maps.

    Args:
        dim: channels C, a multiple of 2; of 8 in sequence.
        parallel: whether the branches are parallel (PSA_p) or sequential, channels first (PSA_s).

    Raises:
        ValueError: `dim` cannot be divided.

    Source: Polarized Self-Attention, arXiv 2107.00782, and its official code.
    """

    def __init__(self, dim: int, parallel: bool = True) -> None:
        super().__init__()
        unit, half = 2 if parallel else 8, dim // 2
        if dim % unit:
            raise ValueError(f"the channels must be a multiple of {unit}, got {dim}")
        self.parallel = parallel
        self.channel_query = nn.Conv2d(dim, 1, 1, bias=False)
        self.channel_value = nn.Conv2d(dim, half, 1, bias=False)
        if parallel:
            self.channel_proj = nn.Sequential(nn.Conv2d(half, dim, 1, bias=False))
        else:
            self.channel_proj = nn.Sequential(
                nn.Conv2d(half, dim // 8, 1),
                LayerNorm2d(dim // 8, eps=1e-5),
                nn.ReLU(inplace=True),
                nn.Conv2d(dim // 8, dim, 1),
            )
        self.query = nn.Conv2d(dim, half, 1, bias=False)
        self.value = nn.Conv2d(dim, half, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        channels = self._channels(x)
        if self.parallel:
            # (B, 1, C / 2) @ (C / 2, C): the query and the convolution of the values as one row per image
            scores = (self._row(x) @ self.value.weight.flatten(1)) @ x.flatten(2)
            return x * (channels + scores.softmax(2).unflatten(2, x.shape[2:]).sigmoid())
        x = x * channels
        scores = self._row(x) @ self.value(x).flatten(2).softmax(2)
        return x * scores.unflatten(2, x.shape[2:]).sigmoid()

    def _row(self, x: Tensor) -> Tensor:
        """Returns the query, (B, 1, C / 2)."""
        return self.query(x.mean((2, 3), keepdim=True)).flatten(1).unsqueeze(1)

    def _channels(self, x: Tensor) -> Tensor:
        """Returns the weights of channels, (B, C, 1, 1)."""
        # (B, 1, T) @ (B, T, C) -> (B, C, 1, 1)
        weights = self.channel_query(x).flatten(2).softmax(2)
        mean = (weights @ x.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)
        weighted: Tensor = self.channel_proj(self.channel_value(mean))
        return weighted.sigmoid()
