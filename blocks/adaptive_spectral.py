"""Adaptive spectral filters: the Fourier transform of a sequence of tokens, filtered by functions of their mean.

On a CPU, sequences of up to 512 tokens are transformed by products with matrices of cosines and sines, which are
faster there than torch's Fourier transform. So is an exported model, for it needs operators of real numbers.

Shape legend: B batch, T tokens, C channels, h heads, D = C / h, K = ⌊T / 2⌋ + 1 frequencies.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels import is_exporting

from .attention import head_width
from .cpu import linear
from .fourier import real_transform, transformed
from .resizing import at_least
from .shortcuts import is_plain_cpu

# largest number of tokens for which matrices are faster
_LONGEST = 512


@register_notrace_module  # the formulation depends on the number of tokens
class AdaptiveSpectralFilter(nn.Module):
    """Scales and shifts the frequencies of a sequence, per head, and gates them by magnitude: (B, T, C) -> (B, T, C).

    Scales and shifts are learned, and changed by an MLP of the mean token. A frequency F becomes
    F * GELU(|F|) / (|F| + 1e-6). For other numbers of tokens scales and shifts are interpolated linearly over the
    frequencies; the official code takes one number. It computes in float32 at least.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        num_tokens: tokens that the filter is learned for.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: The FFT Strikes Back: An Efficient Alternative to Self-Attention, arXiv 2502.18394, and its official code.
    """

    def __init__(self, dim: int, num_heads: int, num_tokens: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_width(dim, num_heads)
        self.num_frequencies = num_tokens // 2 + 1
        self.scale = nn.Parameter(torch.ones(num_heads, self.num_frequencies, 1))
        self.shift = nn.Parameter(torch.full((num_heads, self.num_frequencies, 1), -0.1))
        self.fc1 = nn.Linear(dim, dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(dim, num_heads * self.num_frequencies * 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        scale, shift = self._filter(x)
        exact = x if x.dtype == torch.float64 else x.float()
        scale, shift = scale.to(exact.dtype), shift.to(exact.dtype)
        # (B, T, C) -> (B, T, h, D)
        exact = exact.unflatten(2, (self.num_heads, self.head_dim))
        if not torch.jit.is_scripting() and _prefers_matrices(exact):
            out = _filtered_by_matrices(exact, scale, shift)
        else:
            out = _filtered(exact, scale, shift)
        return out.flatten(2).to(x.dtype)

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.forward(x)

    def _filter(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Returns scales and shifts for the tokens (B, T, C), (B, K, h, 1) each."""
        changes = linear(self.fc2, self.act(linear(self.fc1, x.mean(1))))
        # (B, h * K' * 2) -> (B, h, K', 2)
        changes = changes.unflatten(1, (self.num_heads, self.num_frequencies, 2))
        scale, shift = self.scale * (1 + changes[..., :1]), self.shift + changes[..., 1:]
        weights = _linear_weights(self.num_frequencies, x.shape[1] // 2 + 1, scale)
        # (B, h, K', 2) -> (B, h, K, 2) -> (B, K, h, 2)
        both = torch.matmul(weights, torch.cat([scale, shift], 3)).transpose(1, 2)
        return both[..., :1], both[..., 1:]


@torch.jit.unused
def _prefers_matrices(x: Tensor) -> bool:
    """Returns whether matrices transform a sequence (B, T, h, D) faster, or alone can be exported."""
    return is_exporting() or (is_plain_cpu(x) and x.shape[1] <= _LONGEST)


def _linear_weights(length: int, count: int, like: Tensor) -> Tensor:
    """Returns the weights of `length` values in each of `count` linearly interpolated ones, (count, length)."""
    step = (length - 1) / at_least(count - 1, 1)
    position = torch.arange(count, device=like.device).to(like.dtype).unsqueeze(1) * step
    return (1 - (position - torch.arange(length, device=like.device)).abs()).clamp(min=0)


def _filtered(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Filters with torch's Fourier transform: (B, T, h, D) with two of (B, K, h, 1) -> (B, T, h, D)."""
    spectrum = torch.fft.rfft(x, dim=1, norm="ortho") * scale + shift
    return torch.fft.irfft(spectrum * _gate(spectrum.abs()), n=x.shape[1], dim=1, norm="ortho")


@torch.jit.unused
def _filtered_by_matrices(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Computes the same as `_filtered` with real matrices."""
    _, length, heads, width = x.shape
    forth, back = real_transform(length, x)
    # (B, T, h, D) -> (B, 2K, C) -> (B, 2, K, h, D)
    spectrum = transformed(forth, x.flatten(2)).reshape(-1, 2, length // 2 + 1, heads, width)
    real, imaginary = spectrum[:, 0] * scale + shift, spectrum[:, 1] * scale
    # the minimum keeps the gradient of a frequency of zero finite
    gate = _gate((real.square() + imaginary.square()).clamp(min=1e-37).sqrt())
    spectrum = torch.cat([real * gate, imaginary * gate], 1)
    # (B, 2K, h, D) -> (B, T, C) -> (B, T, h, D)
    return transformed(back, spectrum.flatten(2)).unflatten(2, (heads, width))


def _gate(magnitude: Tensor) -> Tensor:
    return F.gelu(magnitude) / (magnitude + 1e-6)
