"""Attention over intervals as operators of torch.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; kh kw kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..library import define, differentiate, refuse_to_differentiate
from .rule import Rule

Geometry = Callable[..., tuple[tuple[Rule, Rule], tuple[int, int]]]


def define_attention(name: str, arguments: str, geometry: Geometry) -> Any:
    """Defines `attnzoo::NAME(q, k, v, bias, ARGUMENTS, scale) -> (out, logsumexp)` and `attnzoo::NAME_backward`.

    Args:
        name: of the operator.
        arguments: its geometry as a schema, such as `SymInt[] kernel_size, bool[] is_causal`.
        geometry: rules and shifts of both axes from the values of these arguments.

    Returns:
        The operator, to call.
    """
    tensors = "Tensor q, Tensor k, Tensor v, Tensor? bias"

    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
        from . import triton_attention

        *values, scale = rest
        return triton_attention.forward(q, k, v, bias, *geometry(*values), scale)

    def backward(
        upstream: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        out: Tensor,
        logsumexp: Tensor,
        *rest: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from . import triton_attention

        *values, scale, of_keys, of_bias = rest
        rules, shifts = geometry(*values)
        return triton_attention.backward(
            upstream, q, k, v, bias, out, logsumexp, rules, shifts, scale, of_keys, of_bias
        )

    operator = define(name, f"({tensors}, {arguments}, float scale) -> (Tensor, Tensor)", forward, _fake_forward)
    backward_operator = define(
        f"{name}_backward",
        f"(Tensor upstream, {tensors}, Tensor out, Tensor logsumexp, {arguments}, float scale, "
        "bool needs_keys, bool needs_bias) -> (Tensor, Tensor, Tensor, Tensor)",
        backward,
        _fake_backward,
    )

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, bias, *ctx.rest = inputs
        ctx.save_for_backward(q, k, v, bias, *output)

    def derivative(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
        _, of_k, of_v, of_bias = needs = ctx.needs_input_grad[:4]
        q, k, v, bias, out, logsumexp = ctx.saved_tensors
        found = backward_operator(upstream, q, k, v, bias, out, logsumexp, *ctx.rest, of_k or of_v, of_bias)
        gradients = [gradient if needed else None for gradient, needed in zip(found, needs, strict=True)]
        return *gradients, *(None for _ in ctx.rest)

    differentiate(name, derivative, save)
    refuse_to_differentiate(f"{name}_backward", name)
    return operator


def _fake_forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
    return v.new_empty(v.shape), q.new_empty(q.shape[:4], dtype=torch.float32)


def _fake_backward(
    upstream: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    needs_keys, needs_bias = rest[-2:]
    return (
        q.new_empty(q.shape),
        k.new_empty(k.shape if needs_keys else 0),
        v.new_empty(v.shape if needs_keys else 0),
        q.new_empty(0) if bias is None or not needs_bias else bias.new_empty(bias.shape),
    )
