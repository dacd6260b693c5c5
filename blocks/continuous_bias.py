"""Attention biases that a small network computes from the distance of two positions, for any map size.

Shape legend: H W map of the queries, P Q cells (down, across) whose means are the keys, h heads.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic

from .cache import Cache
from .resizing import at_least
from .shortcuts import is_observed


@register_notrace_module  # biases depend on the size of the map
class ContinuousBias(nn.Module):
    """Log-spaced distances in rows and columns -> linear, ReLU, linear -> a bias per head.

    The distances of a map lie on a lattice, so the network computes each distinct distance once and not once per pair.
    In evaluation mode without gradients the biases are cached for the last map size.

    Args:
        num_heads: heads h.
        map_size: the map (rows, columns) whose sides, minus one, are scaled to a distance of 8; None for the input map.
        hidden_dim: channels between the two layers.

    Source: log-spaced continuous position bias, Swin Transformer V2, arXiv 2111.09883, section 3.3; distances to
        means of cells: TransNeXt, arXiv 2311.17132, official code.
    """

    def __init__(self, num_heads: int, map_size: tuple[int, int] | None = None, hidden_dim: int = 512) -> None:
        super().__init__()
        self.map_size = map_size
        self.fc1 = nn.Linear(2, hidden_dim)
        self.act = nn.ReLU()
        self.fc2 = nn.Linear(hidden_dim, num_heads)
        self._cache = Cache()

    def forward(self, height: int, width: int, rows: int, columns: int) -> Tensor:
        """Sizes of the map and of its grid of cells, as in `pool_to` -> (h, H * W, P * Q)."""
        if torch.jit.is_scripting() or self._is_observed():
            return self._computed(height, width, rows, columns)
        return self._cached(height, width, rows, columns)

    @torch.jit.unused
    def _is_observed(self) -> bool:
        return is_observed(*self.modules())

    @torch.jit.unused
    def _cached(self, height: int, width: int, rows: int, columns: int) -> Tensor:
        key = height, width, rows, columns
        return self._cache.get(self, key, lambda: self._computed(height, width, rows, columns))

    def _computed(self, height: int, width: int, rows: int, columns: int) -> Tensor:
        sides = (height, width) if self.map_size is None else self.map_size
        row_distances, row_index = self._axis(height, rows, sides[0])
        column_distances, column_index = self._axis(width, columns, sides[1])
        lattice = [row_distances.shape[0], column_distances.shape[0]]
        # (U, 1) and (1, V) -> (U, V, 2)
        distances = torch.stack([row_distances[:, None].expand(lattice), column_distances.expand(lattice)], 2)
        # (U, V, h) -> (h, U * V)
        biases = self.fc2(self.act(self.fc1(distances))).flatten(0, 1).T
        # (H, 1, P, 1) with (1, W, 1, Q) -> (H * W, P * Q)
        index = row_index[:, None, :, None] * lattice[1] + column_index[None, :, None, :]
        index = index.flatten(0, 1).flatten(1, 2)
        # contiguous: it is computed once and read often
        return biases.contiguous()[:, index]

    def _axis(self, length: int, cells: int, side: int) -> tuple[Tensor, Tensor]:
        """Distances (U,) from the positions of an axis to the means of its cells, and their indices (length, cells)."""
        weight = self.fc1.weight
        device, exact = weight.device, torch.float64 if weight.dtype == torch.float64 else torch.float32
        cell = torch.arange(cells, device=device)
        # twice the mean position of a cell: the sum of its first and last position
        twice = cell * length // cells + ((cell + 1) * length + cells - 1) // cells - 1
        step, largest = _lattice(length, cells)
        index = (2 * torch.arange(length, device=device).unsqueeze(1) - twice + largest) // step
        halves = torch.arange(2 * largest // step + 1, dtype=exact, device=device) * step - largest
        distances = halves / 2 / at_least(side - 1, 1) * 8
        return (distances.sign() * (distances.abs() + 1).log2() / 3).to(weight.dtype), index

    def train(self, mode: bool = True) -> "ContinuousBias":
        """Switches to training or evaluation mode, and clears the cached biases."""
        self._cache.clear()
        return super().train(mode)


def _lattice(length: int, cells: int) -> tuple[int, int]:
    """Returns twice the spacing of the distances, and twice the largest (an upper bound for dynamic sizes)."""
    if is_dynamic([length, cells]):
        return 1, 2 * (length - 1)
    # means of equal cells differ by whole numbers; the first position is the farthest from the last cell
    return 2 if length % cells == 0 else 1, 2 * (length - 1) - (length + cells - 1) // cells + 1
