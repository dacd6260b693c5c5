"""Fast selective scan in plain torch: the sequence is cut into chunks, which are computed side by side.

A chunk has about as many steps as there are chunks. In a first pass all chunks start with a state of zero. All that a
chunk does to the state that it starts with is to multiply it by the exponential of A times the sum of its delta, so the
true first state of every chunk follows from the chunk before. A second pass starts with those. Instead of L steps there
are about three times the square root of L.

On a CPU, groups of images and channels are computed after one another in memory that stays in the cache, and the
backward pass recomputes the states (`eager_chunks`). While a model is traced, or on another device, the whole batch is
computed at once (`eager_batch`).

Shape legend: B batch, L steps, h heads, E channels of a head, N numbers of the state of a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import knows_autocast
from ..saved import checked
from ..tracing import is_traced
from ..transforms import is_transformed
from . import eager_batch, eager_chunks


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, routes: Tensor | None) -> Tensor:
    """The outputs of a linear system whose step size, input and output follow the tokens: .. -> (B, L, h, E)."""
    device = u.device.type
    if knows_autocast(device) and torch.is_autocast_enabled(device):
        # sums over the numbers of a state are products of float32 matrices
        with torch.autocast(device, enabled=False):
            return scan(u, delta, A, B, C, D, routes)
    tensors = u, delta, A, B, C, D
    if u.device.type != "cpu" or is_traced() or is_transformed():
        return checked(eager_batch.scan(*tensors, routes), *tensors, routes)
    if torch.is_grad_enabled() and any(x.requires_grad for x in tensors if x is not None):
        return eager_chunks.Scan.apply(*tensors, routes)
    return eager_chunks.forward(*tensors, routes)
