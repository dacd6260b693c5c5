"""Oversized separable convolutions, whose kernels cover the whole map from every pixel, and a gated mixer of them.

Shape legend: B batch, H W map, C channels, K kernel size.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels import is_exporting

from .convolution import channels_last_conv, depthwise
from .cpu import linear
from .shortcuts import is_unmodified

# smallest kernel whose gradients are faster by matrices
_LEAST = 20
# largest side of a map, divided by the kernel size, up to which matrices, most of them zeros then, are used
_LARGEST = 4


@register_notrace_module  # the formulation depends on the size of the map
class OversizedConv(nn.Module):
    """Depthwise convolutions along the columns and then along the rows of a map: (B, H, W, C) -> (B, H, W, C).

    A kernel of 2n - 1 elements reaches all n positions of an axis from each of them. The map is padded with zeros.

    Where gradients are needed, a large kernel is written as a matrix of all pairs of positions for each channel, the
    backward pass of which takes a fraction of that of a convolution.

    Args:
        dim: channels C.
        kernel_size: odd kernel size K of both convolutions.
        fits_map: whether the kernels are interpolated linearly, with aligned corners, to 2H - 1 and 2W - 1 elements.

    Source: ParCNetV2, arXiv 2211.07157, section 3.2; `fits_map`: its official code.
    """

    def __init__(self, dim: int, kernel_size: int, fits_map: bool = False) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        half = kernel_size // 2
        self.kernel_size = kernel_size
        self.fits_map = fits_map
        self.vertical = nn.Conv2d(dim, dim, (kernel_size, 1), padding=(half, 0), groups=dim, bias=False)
        self.horizontal = nn.Conv2d(dim, dim, (1, kernel_size), padding=(0, half), groups=dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        if not torch.jit.is_scripting() and self._prefers_matrices(x):
            return self._by_matrices(x)
        if not self.fits_map:
            return channels_last_conv(self.horizontal, channels_last_conv(self.vertical, x))
        height, width = x.shape[1], x.shape[2]
        x, dim = x.permute(0, 3, 1, 2), x.shape[3]
        x = F.conv2d(x, fitted(self.vertical.weight, height, 1), padding=[height - 1, 0], groups=dim)
        x = F.conv2d(x, fitted(self.horizontal.weight, 1, width), padding=[0, width - 1], groups=dim)
        return x.permute(0, 2, 3, 1)

    @torch.jit.unused
    def _prefers_matrices(self, x: Tensor) -> bool:
        """Returns whether gradients are needed, matrices are faster, and nobody sees the calls of the layers."""
        if not torch.is_grad_enabled() or is_exporting() or torch.jit.is_tracing():
            return False
        is_large = self.kernel_size >= _LEAST and max(x.shape[1], x.shape[2]) <= _LARGEST * self.kernel_size
        return is_large and is_unmodified(self.vertical, nn.Conv2d) and is_unmodified(self.horizontal, nn.Conv2d)

    @torch.jit.unused
    def _by_matrices(self, x: Tensor) -> Tensor:
        height, width = x.shape[1], x.shape[2]
        vertical, horizontal = self.vertical.weight, self.horizontal.weight
        if self.fits_map:
            vertical, horizontal = fitted(vertical, height, 1), fitted(horizontal, 1, width)
        rows, columns = _matrices(vertical.flatten(1), height), _matrices(horizontal.flatten(1), width)
        # (C, H, H) @ (B, C, H, W) @ (C, W, W)
        x = torch.matmul(torch.matmul(rows, x.permute(0, 3, 1, 2)), columns.transpose(1, 2))
        return x.permute(0, 2, 3, 1).contiguous()

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"fits_map={self.fits_map}"


def fitted(weight: Tensor, rows: int, columns: int) -> Tensor:
    """Interpolates kernels to a map: (C, 1, K, K') -> (C, 1, 2 * rows - 1, 2 * columns - 1)."""
    return F.interpolate(weight, [2 * rows - 1, 2 * columns - 1], mode="bilinear", align_corners=True)


def _matrices(kernels: Tensor, length: int) -> Tensor:
    """Returns the matrices (C, length, length) that convolve an axis with kernels (C, K)."""
    # element (i, j) is that of the kernel at distance j - i from its center, or zero
    missing = length - 1 - kernels.shape[1] // 2
    return F.pad(kernels, [missing, missing]).unfold(1, length, 1).flip(1)


class GatedOversizedConv(nn.Module):
    """Projection of values * (oversized + local convolution of GELU(gate)): (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        kernel_size: odd kernel size of the oversized convolution.
        local_size: odd kernel size of the local convolution.
        fits_map: see `OversizedConv`.

    Source: bifurcate gate unit with local and global convolutions, ParCNetV2, arXiv 2211.07157, section 3.
    """

    def __init__(self, dim: int, kernel_size: int, local_size: int = 7, fits_map: bool = False) -> None:
        super().__init__()
        # two layers: the halves of one layer's output would be strided
        self.value = nn.Linear(dim, dim)
        self.gate = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.oversized = OversizedConv(dim, kernel_size, fits_map)
        self.local = depthwise(dim, local_size, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        gate = self.act(linear(self.gate, x))
        gate = self.oversized(gate) + channels_last_conv(self.local, gate)
        return linear(self.proj, linear(self.value, x) * gate)
