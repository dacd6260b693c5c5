"""Rotary positions of a map: queries and keys are rotated by angles that grow with their row and column.

Shape legend: H W map, T tokens: H * W, D channels of a head.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from torch import Tensor


def rotary_angles(height: int, width: int, head_dim: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of the angle of each channel pair; half of the pairs encode rows, half columns.

    Args:
        height, width: the map.
        head_dim: channels D of a head, a multiple of 4.
        like: tensor with the dtype and device of the result; angles are computed in float32 at least.

    Returns:
        Cosines and sines, each (T, D / 2).

    Source: RoFormer, arXiv 2104.09864, section 3.2. The two axes and the frequencies, from 1 to 1 / 10000 inclusive,
        are from RALA, arXiv 2411.07635, official code.
    """
    exact = torch.float64 if like.dtype == torch.float64 else torch.float32
    frequencies = 10000 ** -torch.linspace(0, 1, head_dim // 4, dtype=exact, device=like.device)
    # (H, 1, D/4) and (1, W, D/4)
    rows = torch.arange(height, dtype=exact, device=like.device).view(-1, 1, 1) * frequencies
    columns = torch.arange(width, dtype=exact, device=like.device).view(1, -1, 1) * frequencies
    return _on_map(rows.cos(), columns.cos()).to(like.dtype), _on_map(rows.sin(), columns.sin()).to(like.dtype)


def _on_map(rows: Tensor, columns: Tensor) -> Tensor:
    """(H, 1, D/4) and (1, W, D/4) -> (T, D/2)."""
    height, width = rows.shape[0], columns.shape[1]
    return torch.cat([rows.expand(height, width, -1), columns.expand(height, width, -1)], 2).flatten(0, 1)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates each pair of adjacent channels: (.., T, D) with two of (T, D / 2) -> (.., T, D)."""
    # (.., T, D) -> two of (.., T, D/2)
    even, odd = x.unflatten(-1, [-1, 2]).unbind(-1)
    return torch.stack([even * cosines - odd * sines, odd * cosines + even * sines], -1).flatten(-2)
