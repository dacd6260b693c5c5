"""Registration of executions as torch operators.

Triton executions are registered for torch.compile, autograd and opcheck, other executions for exporters. Defining an
operator does not need Triton: the kernels are imported when the operator first runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from .fallback import gradients as eager_gradients

# on a CPU, kernels run in Triton's interpreter
DEVICES = ("cpu", "cuda")


def define(
    name: str,
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    devices: str | Sequence[str] = DEVICES,
) -> Any:
    """Defines the operator `attnzoo::NAME`.

    Args:
        name: name of the operator.
        schema: arguments and results, such as `(Tensor q, ..) -> Tensor`.
        run: function that computes the results.
        fake: function that returns empty results of the same shapes and dtypes.
        devices: device types that `run` is for, or a dispatch key of torch.

    Returns:
        The operator, a callable.
    """
    torch.library.define(f"attnzoo::{name}", schema)
    torch.library.impl(f"attnzoo::{name}", devices)(run)
    torch.library.register_fake(f"attnzoo::{name}")(fake)
    return getattr(torch.ops.attnzoo, name).default


def define_dynamic(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Defines the operator `attnzoo::dynamic_NAME`, which tracers keep as one node where a size is dynamic, and
    `attnzoo::dynamic_NAME_backward`.

    The backward operator runs and differentiates `run` again. It has no derivative of its own.

    Args:
        name, schema, run, fake: as in `define`; `run` is used on every device. Tensors come first in the schema, and
            there is one result.

    Returns:
        The operator, a callable.
    """
    every_device = "CompositeExplicitAutograd"
    operator = define(f"dynamic_{name}", schema, run, fake, every_device)
    tensors = [x.name for x in operator._schema.arguments if "Tensor" in str(x.type)]
    count = len(tensors)

    def run_backward(dout: Tensor, *inputs: Any) -> list[Tensor]:
        given, rest = dict(zip(tensors, inputs, strict=False)), inputs[count:-1]
        differentiated = {tensor: given[tensor] for tensor, needed in zip(tensors, inputs[-1], strict=True) if needed}
        found = eager_gradients(lambda **x: run(*{**given, **x}.values(), *rest), differentiated, dout)
        return [found[x].contiguous() if x in found else dout.new_empty(0) for x in tensors]

    def fake_backward(dout: Tensor, *inputs: Any) -> list[Tensor]:
        needs = zip(inputs, inputs[-1], strict=False)
        return [x.new_empty(x.shape) if needed else dout.new_empty(0) for x, needed in needs]

    declared = schema[1:].partition(")")[0]
    backward_operator = define(
        f"dynamic_{name}_backward",
        f"(Tensor dout, {declared}, bool[] needs) -> Tensor[]",
        run_backward,
        fake_backward,
        every_device,
    )

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:count])
        ctx.rest = inputs[count:]

    def derivative(ctx: Any, dout: Tensor) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad[:count]
        gradients = backward_operator(dout, *ctx.saved_tensors, *ctx.rest, needs)
        return *(x if needed else None for x, needed in zip(gradients, needs, strict=True)), *(None for _ in ctx.rest)

    differentiate(f"dynamic_{name}", derivative, save)
    refuse_to_differentiate(
        f"dynamic_{name}_backward",
        f"{name} on a map of dynamic size has no second derivative: compile it for one size where one is needed",
    )
    return operator


def differentiate(name: str, backward: Callable[..., Any], save: Callable[..., None]) -> None:
    """Registers a derivative.

    Args:
        name: name of the operator.
        backward: function of ctx and the gradients of the results that returns the gradients of the arguments.
        save: function of ctx, the arguments, the keyword-only arguments and the results that stores what `backward`
            needs.
    """
    torch.library.register_autograd(f"attnzoo::{name}", backward, setup_context=save)


def refuse_to_differentiate(name: str, message: str) -> None:
    """Makes `attnzoo::NAME`, the backward operator of another, raise an error with this message when differentiated."""

    def refuse(ctx: Any, *gradients: Any) -> None:
        raise NotImplementedError(message)

    torch.library.register_autograd(f"attnzoo::{name}", refuse)
