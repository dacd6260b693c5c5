"""Attention over intervals on tensors: which kernels run, and on what memory.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; kh kw kernel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..triton_launch import readable
from .rule import Rule
from .triton_backward import key_gradient_launch, query_gradient_launch
from .triton_bias import bias_gradient_launch
from .triton_forward import forward_launch
from .triton_problem import Problem


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    rules: tuple[Rule, Rule],
    shifts: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """The output (B, H, W, h, E) and, for the backward, the logsumexp of the scores (B, H, W, h) in powers of two."""
    problem = Problem.of(q, v, rules, shifts)
    out, logsumexp = empty_outputs(q, v)
    bias = None if bias is None else bias.contiguous()
    forward_launch(problem, readable(q), readable(k), readable(v), bias, out, logsumexp, scale).run()
    return out, logsumexp


def backward(
    upstream: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    out: Tensor,
    logsumexp: Tensor,
    rules: tuple[Rule, Rule],
    shifts: tuple[int, int],
    scale: float,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and bias; that of the bias is empty where it is not needed."""
    problem = Problem.of(q, v, rules, shifts)
    q, k, v, upstream = readable(q), readable(k), readable(v), readable(upstream)
    table = None if bias is None else bias.contiguous()
    delta = torch.empty_like(logsumexp)
    of_q, of_k, of_v = empty_gradients(q, k, v)
    query_gradient_launch(problem, q, k, v, table, out, upstream, logsumexp, delta, of_q, scale).run()
    key_gradient_launch(problem, q, k, v, table, upstream, logsumexp, delta, of_k, of_v, scale).run()
    if table is None or not needs_bias:
        return of_q, of_k, of_v, no_gradient(q, bias)
    launch, tables = bias_gradient_launch(problem, q, k, v, table, upstream, logsumexp, delta, scale)
    launch.run()
    return of_q, of_k, of_v, tables.sum(0).to(table.dtype)


def empty_outputs(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Memory for the output (B, H, W, h, E) and the logsumexp (B, H, W, h)."""
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    return out, torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)


def empty_gradients(*tensors: Tensor) -> list[Tensor]:
    """Contiguous memory for gradients."""
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in tensors]


def no_gradient(q: Tensor, bias: Tensor | None) -> Tensor:
    """What stands for the gradient of a bias where it is not needed."""
    return (q if bias is None else bias).new_empty(0)
