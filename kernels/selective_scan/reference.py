"""Reference for the selective scan: one step after another. Slow, exact, twice differentiable.

Shape legend: B batch, L steps, h heads, E channels of a head, N numbers of the state of a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..saved import checked
from .order import by_step, by_token, heads_of


def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, routes: Tensor | None) -> Tensor:
    """The outputs of a linear system whose step size, input and output follow the tokens: .. -> (B, L, h, E)."""
    heads = heads_of(u, delta, A, B, C, D, routes)
    # a state in 16 bits would lose what a step adds to a large one
    dtype = torch.promote_types(u.dtype, torch.float32)
    x = by_step(u, routes, heads).to(dtype)
    steps, decays, inputs, outputs = (y.to(dtype) for y in (delta, A, B, C))
    state = x.new_zeros(*x[:, 0].shape, A.shape[2])
    out = []
    for step in range(x.shape[1]):
        # (B, h, E, N)
        decay = torch.exp(steps[:, step].unsqueeze(3) * decays)
        added = (steps[:, step] * x[:, step]).unsqueeze(3) * inputs[:, step].unsqueeze(2)
        state = decay * state + added
        out.append((state * outputs[:, step].unsqueeze(2)).sum(3))
    y = torch.stack(out, 1)
    if D is not None:
        y = y + D * x
    return checked(by_token(y.to(u.dtype), routes), u, delta, A, B, C, D, routes)
