"""Fourier transforms as products with matrices of cosines and sines.

They take the place of torch's Fourier transform for short sequences on a CPU, and consist of operators of real
numbers, so they are exported. All transforms are divided by the square root of the length.

Shape legend: N length of a sequence, K = ⌊N / 2⌋ + 1 frequencies of a real sequence.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math

import torch
from torch import Tensor

from attnzoo.kernels import is_exporting
from attnzoo.kernels.cache import cached
from attnzoo.kernels.tracing import real_tensors


def real_transform(length: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the transform of real numbers, real before imaginary parts (2K, N), and its inverse (N, 2K)."""
    if is_exporting():
        return _real_matrices(length, like.dtype, like.device)
    return _kept_real(length, like.dtype)


def complex_transform(length: int, like: Tensor) -> Tensor:
    """Returns the transform of complex numbers, real before imaginary parts (2N, 2N)."""
    if is_exporting():
        return _complex_matrix(length, like.dtype, like.device)
    return _kept_complex(length, like.dtype)


def transformed(matrix: Tensor, x: Tensor) -> Tensor:
    """Multiplies every matrix of a batch from the left: (out, N) with (B, N, C) -> (B, out, C)."""
    if is_exporting():
        return torch.matmul(matrix, x)
    # `torch.matmul` would transpose the batch
    return torch.bmm(matrix.expand(x.shape[0], -1, -1), x)


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
