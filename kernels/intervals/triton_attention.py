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
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    logsumexp = torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)
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
    needs_keys: bool,
    needs_bias: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and bias; those of keys and values, or of the bias, are empty where they are not needed."""
    problem = Problem.of(q, v, rules, shifts)
    q, k, v, upstream = readable(q), readable(k), readable(v), readable(upstream)
    bias = None if bias is None else bias.contiguous()
    delta = torch.empty_like(logsumexp)
    q_gradient = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    query_gradient_launch(problem, q, k, v, bias, out, upstream, logsumexp, delta, q_gradient, scale).run()
    k_gradient = torch.empty(k.shape if needs_keys else 0, dtype=k.dtype, device=k.device)
    v_gradient = torch.empty(v.shape if needs_keys else 0, dtype=v.dtype, device=v.device)
    if needs_keys:
        key_gradient_launch(problem, q, k, v, bias, upstream, logsumexp, delta, k_gradient, v_gradient, scale).run()
    bias_gradient = torch.empty(0, dtype=q.dtype, device=q.device)
    if bias is not None and needs_bias:
        launch, tables = bias_gradient_launch(problem, q, k, v, bias, upstream, logsumexp, delta, scale)
        launch.run()
        bias_gradient = tables.sum(0).to(bias.dtype)
    return q_gradient, k_gradient, v_gradient, bias_gradient
