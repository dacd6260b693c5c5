"""Global filters: the product of the Fourier transform of a map and a learned filter.

On a CPU, maps of up to 32 pixels per side are transformed by products with matrices of cosines and sines, which are
faster there than torch's Fourier transform. So is an exported model, for it needs operators of real numbers.

Shape legend: B batch, H W map, C channels, K = ⌊W / 2⌋ + 1 frequencies of the columns.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import DropPath, register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic, is_exporting
from attnzoo.kernels.tracing import is_traced

from .cache import Cache
from .fourier import complex_transform, real_transform, transformed
from .resizing import at_least, has_size
from .shortcuts import is_plain_cpu

# largest side of a map for which matrices are faster
_LARGEST = 32


@register_notrace_module  # the formulation depends on the size of the map
class SpectralFilter(nn.Module):
    """Multiplies every frequency of every channel by a learned complex number: (B, H, W, C) -> (B, H, W, C).

    It is a circular depthwise convolution with a kernel as large as the map. The filter is learned for one map size;
    for others it is interpolated bicubically over the frequencies, as in the official code for fine-tuning. It computes
    in float32 at least. In evaluation mode without gradients an interpolated filter is cached for the last map size.

    Args:
        dim: channels C.
        map_size: the map (rows, columns) that the filter is learned for.

    Source: Global Filter Networks, arXiv 2107.00645, section 3.2.
    """

    def __init__(self, dim: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.map_size = map_size
        # real and imaginary parts
        self.table = nn.Parameter(0.02 * torch.randn(2, map_size[0], map_size[1] // 2 + 1, dim))
        self._cache = Cache()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        table = self.at(x.shape[1], x.shape[2])
        exact = x if x.dtype == torch.float64 else x.float()
        if not torch.jit.is_scripting() and _prefers_matrices(exact):
            out = _filtered_by_matrices(exact, table.to(exact.dtype))
        else:
            out = _filtered(exact, table.to(exact.dtype))
        return out.to(x.dtype)

    def at(self, height: int, width: int) -> Tensor:
        """Returns the filter for a map size, real and imaginary parts (2, H, K, C)."""
        if has_size(height, width, self.map_size[0], self.map_size[1]):
            return self.table
        if torch.jit.is_scripting():
            return resize_spectrum(self.table, height, width)
        return self._cached(height, width)

    @torch.jit.unused
    def _cached(self, height: int, width: int) -> Tensor:
        if is_dynamic([height, width]):
            return _resize_dynamic(self.table, height, width)
        if is_traced():
            return resize_spectrum(self.table, height, width)
        return self._cache.get(self, (height, width), lambda: resize_spectrum(self.table, height, width))

    def train(self, mode: bool = True) -> "SpectralFilter":
        """Switches to training or evaluation mode, and clears the cached filter."""
        self._cache.clear()
        return super().train(mode)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"dim={self.table.shape[3]}, map_size={self.map_size}"


class FilterBlock(nn.Module):
    """x + mlp(norm(filter(norm(x)))), with one shortcut around both: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        map_size: the map (rows, columns) that the filter is learned for.
        mlp: an MLP, (B, H, W, C) -> (B, H, W, C).
        drop_path: probability that a sample skips the branch in training.
        norm_layer: builds a norm over the channels.

    Source: Global Filter Networks, arXiv 2107.00645, official code.
    """

    def __init__(
        self,
        dim: int,
        map_size: tuple[int, int],
        mlp: nn.Module,
        drop_path: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__()
        self.norm1 = norm_layer(dim)
        self.filter = SpectralFilter(dim, map_size)
        self.norm2 = norm_layer(dim)
        self.mlp = mlp
        self.drop_path = DropPath(drop_path) if drop_path > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x + self.drop_path(self.mlp(self.norm2(self.filter(self.norm1(x)))))


def resize_spectrum(table: Tensor, height: int, width: int) -> Tensor:
    """Interpolates a filter to the frequencies of a map (H, W): (2, rows, frequencies, C) -> (2, H, K, C)."""
    table = table.permute(0, 3, 1, 2)
    table = F.interpolate(table, [height, width // 2 + 1], mode="bicubic", align_corners=True)
    return table.permute(0, 2, 3, 1)


@torch.jit.unused
def _prefers_matrices(x: Tensor) -> bool:
    """Returns whether matrices filter a map (B, H, W, C) faster, or alone can be exported."""
    return is_exporting() or (is_plain_cpu(x) and max(x.shape[1], x.shape[2]) <= _LARGEST)


def _resize_dynamic(table: Tensor, height: int, width: int) -> Tensor:
    """Computes the same as `resize_spectrum` by two products, which make a small graph for any size."""
    # (2, rows, K', C) -> (2, H, K' * C) -> (2, H, K, C)
    resized = torch.matmul(_cubic_weights(table.shape[1], height, table), table.flatten(2))
    return torch.matmul(_cubic_weights(table.shape[2], width // 2 + 1, table), resized.unflatten(2, table.shape[2:]))


def _cubic_weights(length: int, count: int, like: Tensor) -> Tensor:
    """Returns the weights of `length` values in each of `count` interpolated ones, (count, length)."""
    step = (length - 1) / at_least(count - 1, 1)
    position = torch.arange(count, device=like.device).to(like.dtype).unsqueeze(1) * step
    # one value beyond either end, equal to the last one
    distance = (position - torch.arange(-1, length + 1, device=like.device)).abs()
    # Keys' kernel with a = -0.75
    near = (1.25 * distance - 2.25) * distance.square() + 1
    far = ((-0.75 * distance + 3.75) * distance - 6) * distance + 3
    weight = near * (distance <= 1) + far * ((distance > 1) & (distance < 2))
    first, inner, last = weight.split([2, length - 2, 2], 1)
    return torch.cat([first.sum(1, keepdim=True), inner, last.sum(1, keepdim=True)], 1)


def _filtered(x: Tensor, table: Tensor) -> Tensor:
    """Filters a map with torch's Fourier transform: (B, H, W, C) with (2, H, K, C) -> (B, H, W, C)."""
    spectrum = torch.fft.rfft2(x, dim=[1, 2], norm="ortho") * torch.complex(table[0], table[1])
    return torch.fft.irfft2(spectrum, s=[x.shape[1], x.shape[2]], dim=[1, 2], norm="ortho")


@torch.jit.unused
def _filtered_by_matrices(x: Tensor, table: Tensor) -> Tensor:
    """Computes the same as `_filtered` with real matrices."""
    _, height, width, dim = x.shape
    count = width // 2 + 1
    along_columns, back_columns = real_transform(width, x)
    along_rows = complex_transform(height, x)
    # (B * H, W, C) -> (B * H, 2K, C) -> (B, 2, H, K * C) -> (B, 2H, K * C)
    x = transformed(along_columns, x.flatten(0, 1)).reshape(-1, height, 2, count * dim).transpose(1, 2).flatten(1, 2)
    real, imaginary = transformed(along_rows, x).reshape(-1, 2, height, count, dim).unbind(1)
    # the product of complex numbers
    x = torch.stack(
        [
            torch.addcmul(real * table[0], imaginary, table[1], value=-1),
            torch.addcmul(real * table[1], imaginary, table[0]),
        ],
        1,
    )
    # the transform is unitary: its inverse is the transpose
    x = transformed(along_rows.T, x.reshape(-1, 2 * height, count * dim))
    # (B, 2H, K * C) -> (B, 2, H, K * C) -> (B * H, 2K, C) -> (B, H, W, C)
    x = x.reshape(-1, 2, height, count * dim).transpose(1, 2).reshape(-1, 2 * count, dim)
    return transformed(back_columns, x).reshape(-1, height, width, dim)
