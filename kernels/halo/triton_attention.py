"""Halo attention on tensors: which kernels run, and on what memory.

Shape legend: B batch, H' W' map of queries, H W of keys, h heads, D width of queries and keys, E width of values, w
window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..intervals.triton_attention import empty_gradients
from ..triton_launch import readable
from .geometry import HaloAxis
from .triton_backward import key_gradient_launch, query_gradient_launch
from .triton_forward import forward_launch
from .triton_problem import Problem

Axes = tuple[HaloAxis, HaloAxis]


def forward(
    q: Tensor, k: Tensor, v: Tensor, of_rows: Tensor | None, of_columns: Tensor | None, axes: Axes, scale: float
) -> tuple[Tensor, Tensor]:
    """The output (B, H', W', h, E) and, for the backward, the logsumexp (B, H', W', h) in powers of two."""
    problem = Problem.of(q, v, axes)
    out = torch.empty(*q.shape[:4], v.shape[4], dtype=v.dtype, device=v.device)
    logsumexp = torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)
    relative = _readable(of_rows), _readable(of_columns)
    forward_launch(problem, readable(q), readable(k), readable(v), *relative, out, logsumexp, scale).run()
    return out, logsumexp


def backward(
    upstream: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    of_rows: Tensor | None,
    of_columns: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    axes: Axes,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the relative scores; empty ones of scores that there are none of."""
    problem = Problem.of(q, v, axes)
    q, k, v, upstream = readable(q), readable(k), readable(v), readable(upstream)
    relative = _readable(of_rows), _readable(of_columns)
    delta = torch.empty_like(logsumexp)
    of_q, of_k, of_v = empty_gradients(q, k, v)
    of_relative = [None if scores is None else empty_gradients(scores)[0] for scores in relative]
    query_gradient_launch(
        problem, q, k, v, *relative, out, upstream, logsumexp, delta, of_q, of_relative[0], of_relative[1], scale
    ).run()
    key_gradient_launch(problem, q, k, v, *relative, upstream, logsumexp, delta, of_k, of_v, scale).run()
    of_row_scores, of_column_scores = (q.new_empty(0) if scores is None else scores for scores in of_relative)
    return of_q, of_k, of_v, of_row_scores, of_column_scores


def _readable(scores: Tensor | None) -> Tensor | None:
    return None if scores is None else readable(scores)
