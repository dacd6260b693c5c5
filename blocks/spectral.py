"""Global filters: the product of the Fourier transform of a map and a learned filter.

On a CPU, maps of up to 32 pixels per side are transformed by products with matrices of cosines and sines, which are
faster there than torch's Fourier transform. So is an exported model, for it needs operators of real numbers.

Shape legend: B batch, H W map, C channels, K = ⌊W / 2⌋ + 1 frequencies of the columns.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic, is_exporting
from attnzoo.kernels.cache import cached
from attnzoo.kernels.tracing import is_traced, real_tensors

from .cache import Cache
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
    along_columns, back_columns = _real_transform(width, x)
    along_rows = _complex_transform(height, x)
    # (B, H, W, C) -> (B, H, 2K, C) -> (B, 2, H, K * C) -> (B, 2H, K * C)
    x = torch.matmul(along_columns, x).reshape(-1, height, 2, count * dim).transpose(1, 2).flatten(1, 2)
    x = torch.matmul(along_rows, x).reshape(-1, 2, height, count, dim)
    # the product of complex numbers
    x = torch.addcmul(x * table[0], x.flip(1), torch.stack([-table[1], table[1]]))
    # the transform is unitary: its inverse is the transpose
    x = torch.matmul(along_rows.T, x.reshape(-1, 2 * height, count * dim))
    # (B, 2, H, K * C) -> (B, H, 2K, C) -> (B, H, W, C)
    x = x.reshape(-1, 2, height, count * dim).transpose(1, 2).reshape(-1, height, 2 * count, dim)
    return torch.matmul(back_columns, x)


def _real_transform(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the transform of real numbers, real before imaginary parts (2K, W), and its inverse (W, 2K)."""
    if is_exporting():
        return _real_matrices(length, like.dtype, like.device)
    return _kept_real(length, like.dtype)


def _complex_transform(length: int, like: Tensor) -> Tensor:
    """Returns the transform of complex numbers, real before imaginary parts (2H, 2H)."""
    if is_exporting():
        return _complex_matrix(length, like.dtype, like.device)
    return _kept_complex(length, like.dtype)


@cached
def _kept_real(length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    with real_tensors():
        return _real_matrices(length, dtype, torch.device("cpu"))


@cached
def _kept_complex(length: int, dtype: torch.dtype) -> Tensor:
    with real_tensors():
        return _complex_matrix(length, dtype, torch.device("cpu"))


def _real_matrices(length: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    frequency = torch.arange(length // 2 + 1, device=device)
    cosines, sines = _waves(frequency, length, dtype)
    # every frequency but 0 and the highest of an even length stands for itself and its negative
    alone = (frequency == 0) | (2 * frequency == length)
    weight = 2 - alone.to(dtype).unsqueeze(1)
    return torch.cat([cosines, -sines]), torch.cat([weight * cosines, -weight * sines]).T.contiguous()


def _complex_matrix(length: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    cosines, sines = _waves(torch.arange(length, device=device), length, dtype)
    return torch.cat([torch.cat([cosines, sines], 1), torch.cat([-sines, cosines], 1)])


def _waves(frequency: Tensor, length: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns cosines and sines of frequencies at all positions, (frequencies, length), divided by √length."""
    # angles of at most one turn are exact to the last digits
    turns = frequency.unsqueeze(1) * torch.arange(length, device=frequency.device)
    # the remainder, which cannot be exported for a dynamic length
    angle = (turns - turns // length * length).to(dtype) * (2 * math.pi / length)
    return angle.cos() / length**0.5, angle.sin() / length**0.5
