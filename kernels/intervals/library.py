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


def define_attention(name: str, arguments: str, geometry: Geometry, kernels: Callable[[], Any]) -> Any:
    """Defines `attnzoo::NAME(q, k, v, bias, ARGUMENTS, scale) -> (out, logsumexp)` and `attnzoo::NAME_backward`.

    Args:
        name: of the operator.
        arguments: its geometry as a schema, such as `SymInt[] kernel_size, bool[] is_causal`.
        geometry: rules and shifts of both axes from the values of these arguments.
        kernels: imports the module whose `forward` and `backward` start the kernels, see `triton_attention`.

    Returns:
        The operator, to call.
    """
    tensors = "Tensor q, Tensor k, Tensor v, Tensor? bias"

    def forward(*inputs: Any) -> tuple[Tensor, Tensor]:
        tensors, values, scale = inputs[:4], inputs[4:-1], inputs[-1]
        return kernels().forward(*tensors, *geometry(*values), scale)

    def backward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        tensors, values, (scale, needs_bias) = inputs[:7], inputs[7:-2], inputs[-2:]
        return kernels().backward(*tensors, *geometry(*values), scale, needs_bias)

    operator = define(name, f"({tensors}, {arguments}, float scale) -> (Tensor, Tensor)", forward, _fake_forward)
    backward_operator = define(
        f"{name}_backward",
        f"(Tensor upstream, {tensors}, Tensor out, Tensor logsumexp, {arguments}, float scale, "
        "bool needs_bias) -> (Tensor, Tensor, Tensor, Tensor)",
        backward,
        _fake_backward,
    )

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, bias, *ctx.rest = inputs
        ctx.save_for_backward(q, k, v, bias, *output)

    def derivative(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[:4]
        found = backward_operator(upstream, *ctx.saved_tensors, *ctx.rest, needs[3])
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
    shape = 0 if bias is None or not rest[-1] else bias.shape
    like = q if bias is None else bias
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape), like.new_empty(shape)
