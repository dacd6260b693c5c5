"""Attention over intervals as operators of torch: what the compiler, autograd and `torch.library.opcheck` see.

Defining them needs no Triton; it is imported when one runs for the first time.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values; kh kw kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .rule import Rule

DEVICES = ("cpu", "cuda")
Geometry = Callable[..., tuple[tuple[Rule, Rule], tuple[int, int]]]


def define_attention(name: str, arguments: str, geometry: Geometry) -> None:
    """Defines `attnzoo::NAME(q, k, v, bias, ARGUMENTS, scale) -> (out, logsumexp)` and `attnzoo::NAME_backward`.

    Args:
        name: of the operator.
        arguments: its geometry as a schema, such as `SymInt[] kernel_size, bool[] is_causal`.
        geometry: rules and shifts of both axes from the values of these arguments.
    """
    tensors = "Tensor q, Tensor k, Tensor v, Tensor? bias"
    forward_name, backward_name = f"attnzoo::{name}", f"attnzoo::{name}_backward"
    torch.library.define(forward_name, f"({tensors}, {arguments}, float scale) -> (Tensor, Tensor)")
    torch.library.define(
        backward_name,
        f"(Tensor upstream, {tensors}, Tensor out, Tensor logsumexp, {arguments}, float scale, "
        "bool needs_keys, bool needs_bias) -> (Tensor, Tensor, Tensor, Tensor)",
    )
    operators = torch.ops.attnzoo

    @torch.library.impl(forward_name, DEVICES)
    def forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
        from .triton_attention import forward

        *values, scale = rest
        return forward(q, k, v, bias, *geometry(*values), scale)

    @torch.library.register_fake(forward_name)
    def fake_forward(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *rest: Any) -> tuple[Tensor, Tensor]:
        return v.new_empty(v.shape), q.new_empty(q.shape[:4], dtype=torch.float32)

    @torch.library.impl(backward_name, DEVICES)
    def backward(*inputs: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        from .triton_attention import backward

        tensors, values, (scale, needs_keys, needs_bias) = inputs[:7], inputs[7:-3], inputs[-3:]
        return backward(*tensors, *geometry(*values), scale, needs_keys, needs_bias)

    @torch.library.register_fake(backward_name)
    def fake_backward(
        upstream: Tensor, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        needs_keys, needs_bias = rest[-2:]
        return (
            q.new_empty(q.shape),
            k.new_empty(k.shape if needs_keys else 0),
            v.new_empty(v.shape if needs_keys else 0),
            q.new_empty(0) if bias is None or not needs_bias else bias.new_empty(bias.shape),
        )

    def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        q, k, v, bias, *ctx.rest = inputs
        ctx.save_for_backward(q, k, v, bias, *output)

    def differentiate(ctx: Any, upstream: Tensor, _: Tensor) -> tuple[Any, ...]:
        q, k, v, bias, out, logsumexp = ctx.saved_tensors
        _, of_k, of_v, of_bias = needs = ctx.needs_input_grad[:4]
        gradients = getattr(operators, f"{name}_backward")(
            upstream, q, k, v, bias, out, logsumexp, *ctx.rest, of_k or of_v, of_bias
        )
        gradients = [gradient if needed else None for gradient, needed in zip(gradients, needs, strict=True)]
        return *gradients, *(None for _ in ctx.rest)

    torch.library.register_autograd(forward_name, differentiate, setup_context=save)
    refuse_second_derivative(name, backward_name)


def refuse_second_derivative(name: str, backward_name: str) -> None:
    """Lets an operator's backward raise when it is differentiated itself."""

    def refuse(ctx: Any, *gradients: Tensor) -> None:
        raise NotImplementedError(
            f"the Triton kernels of {name} have no second derivative: use backend='eager' where one is needed"
        )

    torch.library.register_autograd(backward_name, refuse)
