"""Attention to the 3x3 neighborhood of a pixel, computed with nine shifted views of the map.

Unlike the windows of `attnzoo.kernels.neighborhood_attention`, which stay inside the map, these neighborhoods are cut
off at its border. Each neighbor is a shifted view of the padded map, so nothing is gathered.

Shape legend: B batch, H W map, h heads, D channels of a head, 9 neighbors row by row.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from torch import Tensor


def neighbor_scores(q: Tensor, k: Tensor) -> Tensor:
    """Multiplies each query with the keys around it, zero outside of the map: two (B, H, W, h, D) -> (.., h, 9)."""
    return torch.stack([(q * shifted).sum(4) for shifted in _shifts(k)], 4)


def neighbor_sums(weights: Tensor, v: Tensor) -> Tensor:
    """Sums the values around each pixel: weights (B, H, W, h, 9) and v (B, H, W, h, D) -> (B, H, W, h, D)."""
    shifts = _shifts(v)
    out = weights[..., :1] * shifts[0]
    for i in range(1, 9):
        out = torch.addcmul(out, weights[..., i : i + 1], shifts[i])
    return out


def neighbors_inside(height: int, width: int, device: torch.device) -> Tensor:
    """Returns which neighbors of each pixel are inside of the map, (H, W, 9)."""
    rows, columns = _inside(height, device), _inside(width, device)
    # (H, 1, 3, 1) with (1, W, 1, 3) -> (H, W, 9)
    return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(2)


def _inside(length: int, device: torch.device) -> Tensor:
    """Returns which neighbors of each position are inside of the axis, (length, 3)."""
    neighbors = torch.arange(length, device=device).unsqueeze(1) + torch.arange(-1, 2, device=device)
    return (neighbors >= 0) & (neighbors < length)


def _shifts(x: Tensor) -> list[Tensor]:
    """(B, H, W, h, D) -> nine shifted maps of the same shape, one per neighbor."""
    height, width = x.shape[1], x.shape[2]
    x = F.pad(x, [0, 0, 0, 0, 1, 1, 1, 1])
    shifts: list[Tensor] = []
    for row in range(3):
        for column in range(3):
            shifts.append(x[:, row : row + height, column : column + width])  # noqa: PERF401  (TorchScript needs a loop)
    return shifts
