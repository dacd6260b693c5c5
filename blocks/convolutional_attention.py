"""Large kernel convolutional attention: attention weights that depend only on the offset between two pixels.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, T = H * W, R S rows and columns of the map that the
kernel is learned for.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from attnzoo.kernels import is_exporting

from .attention import head_width
from .cpu import linear

# largest map, in pixels, for which a matrix of all pairs of pixels is faster than a convolution; in training, where
# gradients of large kernels take longest, it would be for larger ones, too, but its memory grows with the square
_LARGEST = 56 * 56


@register_notrace_module  # the formulation depends on the size of the map
class ConvolutionalAttention(nn.Module):
    """Values are convolved with one learned kernel as large as all offsets of a map: (B, H, W, C) -> (B, H, W, C).

    It is attention whose weights are the same for all images: a kernel of (2R - 1) x (2S - 1) weights, one for each
    offset between two pixels, without a softmax. On larger maps, pixels see those of an offset that the kernel has; on
    smaller ones its outer weights are not used.

    From the paper's text, unverified: there is no official code, and the paper leaves open how many channels share a
    kernel.

    Args:
        dim: channels C, a multiple of num_heads.
        map_size: the map (rows R, columns S) that the kernel is learned for.
        num_heads: kernels h, each for D channels.
        bias: whether the projection to values has a bias.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: LKCA: Large Kernel Convolutional Attention, arXiv 2401.05738, section 3.
    """

    def __init__(
        self, dim: int, map_size: tuple[int, int], num_heads: int = 1, bias: bool = True, proj_drop: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_width(dim, num_heads)
        self.map_size = map_size
        self.kernel = nn.Parameter(
            trunc_normal_(torch.zeros(num_heads, 2 * map_size[0] - 1, 2 * map_size[1] - 1), std=0.02)
        )
        self.value = nn.Linear(dim, dim, bias=bias)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        values = linear(self.value, x)
        if not torch.jit.is_scripting() and _prefers_matrix(x):
            out = self._attended(values)
        else:
            out = self._convolved(values)
        return self.proj_drop(linear(self.proj, out))

    def _convolved(self, values: Tensor) -> Tensor:
        # one kernel per channel: (C, 1, 2R - 1, 2S - 1)
        kernel = self.kernel.repeat_interleave(self.head_dim, 0).unsqueeze(1)
        padding = [self.map_size[0] - 1, self.map_size[1] - 1]
        out = F.conv2d(values.permute(0, 3, 1, 2), kernel, padding=padding, groups=kernel.shape[0])
        return out.permute(0, 2, 3, 1)

    @torch.jit.unused
    def _attended(self, values: Tensor) -> Tensor:
        """Computes the same as `_convolved` with the weights of all pairs of pixels."""
        height, width = values.shape[1], values.shape[2]
        rows, columns = height - self.map_size[0], width - self.map_size[1]
        # negative padding removes weights: (h, 2H - 1, 2W - 1)
        kernel = F.pad(self.kernel, [columns, columns, rows, rows])
        # the window of the weights of a pixel moves against the pixel: (h, H, W, H, W) -> (h, T, T)
        windows = kernel.unfold(1, height, 1).unfold(2, width, 1).flip(1, 2)
        weights = windows.reshape(self.num_heads, height * width, height * width)
        # (B, H, W, C) -> (B, h, T, D)
        values = values.flatten(1, 2).unflatten(2, (self.num_heads, self.head_dim)).transpose(1, 2)
        # (B, h, T, D) -> (B, T, C) -> (B, H, W, C)
        return torch.matmul(weights, values).transpose(1, 2).flatten(2).unflatten(1, (height, width))

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"map_size={self.map_size}, num_heads={self.num_heads}"


@torch.jit.unused
def _prefers_matrix(x: Tensor) -> bool:
    """Returns whether the weights of all pairs of pixels of a map (B, H, W, C) are faster."""
    return not is_exporting() and x.shape[1] * x.shape[2] <= _LARGEST
