"""Selective scan of a whole batch at once, with operators that every tracer, compiler and exporter supports.

Shape legend: B batch, L steps, h heads, E channels of a head, N numbers of the state of a channel, K chunks of T steps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .order import by_step, by_token, heads_of


def chunks_of(steps: int) -> tuple[int, int]:
    """Returns the number of chunks and their steps, which together are `steps` or some more."""
    length = max(1, math.isqrt(max(0, steps - 1)) + 1)
    return -(-steps // length), length


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, routes: Tensor | None) -> Tensor:
    """The outputs of a linear system whose step size, input and output follow the tokens: .. -> (B, L, h, E)."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    heads, steps = heads_of(u, delta, A, B, C, D, routes), u.shape[1]
    x, delta, B, C = (y.to(dtype) for y in (by_step(u, routes, heads), delta, B, C))
    # (h, E, N) -> (h, N, E)
    A = A.to(dtype).transpose(1, 2)
    # (B, L, h, .) -> (T, B, K, h, .)
    given, durations, inputs, outputs = (_in_chunks(y, *chunks_of(steps)) for y in (delta * x, delta, B, C))
    decay = torch.exp(durations.unsqueeze(4) * A)
    added = given.unsqueeze(4) * inputs.unsqueeze(5)
    state, states = torch.zeros_like(added[0]), []
    for step in range(len(added)):
        state = decay[step] * state + added[step]
        states.append(state)
    if added.shape[2] > 1:
        # of the state that a chunk starts with, this much is left after each of its steps
        left = torch.exp(durations.cumsum(0).unsqueeze(4) * A)
        start = torch.zeros_like(state[:, 0])
        starts = [start]
        for chunk in range(added.shape[2] - 1):
            start = left[-1, :, chunk] * start + state[:, chunk]
            starts.append(start)
        every = torch.stack(states) + left * torch.stack(starts, 1)
    else:
        every = torch.stack(states)
    # (T, B, K, h, 1, N) @ (T, B, K, h, N, E) -> (B, K, T, h, E) -> (B, L, h, E)
    y = torch.matmul(outputs.unsqueeze(4), every).squeeze(4).permute(1, 2, 0, 3, 4).flatten(1, 2)[:, :steps]
    if D is not None:
        y = y + D.to(dtype) * x
    return by_token(y.to(u.dtype), routes)


def _in_chunks(x: Tensor, chunks: int, length: int) -> Tensor:
    """(B, L, h, .) -> (T, B, K, h, .), with zeros after the last step."""
    x = F.pad(x, (0, 0, 0, 0, 0, chunks * length - x.shape[1]))
    return x.unflatten(1, (chunks, length)).permute(2, 0, 1, 3, 4)
