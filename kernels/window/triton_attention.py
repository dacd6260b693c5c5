"""Window attention on tensors: a kernel that holds a window whole where there is one, else those for intervals.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values.
"""

from __future__ import annotations

from torch import Tensor

from ..intervals import triton_attention
from ..intervals.rule import Rule
from ..intervals.triton_problem import Problem
from ..triton_launch import readable
from .triton_small import backward_launch, forward_launch, small_configuration


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
    configuration = small_configuration(problem, "forward")
    if configuration is None:
        return triton_attention.forward(q, k, v, bias, rules, shifts, scale)
    out, logsumexp = triton_attention.empty_outputs(q, v)
    bias = None if bias is None else bias.contiguous()
    q, k, v = readable(q), readable(k), readable(v)
    forward_launch(problem, configuration, q, k, v, bias, out, logsumexp, scale).run()
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
    configuration = small_configuration(problem, "backward")
    if configuration is None:
        return triton_attention.backward(upstream, q, k, v, bias, out, logsumexp, rules, shifts, scale, needs_bias)
    q, k, v, upstream = readable(q), readable(k), readable(v), readable(upstream)
    table = None if bias is None else bias.contiguous()
    of_q, of_k, of_v = triton_attention.empty_gradients(q, k, v)
    launch, tables = backward_launch(
        problem, configuration, q, k, v, table, out, upstream, logsumexp, of_q, of_k, of_v, scale, needs_bias
    )
    launch.run()
    if bias is None or tables is None:
        return of_q, of_k, of_v, triton_attention.no_gradient(q, bias)
    return of_q, of_k, of_v, tables.sum(0).to(bias.dtype)
