"""Registration of executions as torch operators.

Triton executions are registered for torch.compile, autograd and opcheck, other executions for exporters. Defining an
operator does not need Triton: the kernels are imported when the operator first runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .fallback import gradients as eager_gradients
from .fallback import with_fallback
from .tracing import is_plain
from .transforms import needs_differentiable_gradients

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


class Extra(NamedTuple):
    """A tensor that a fused operator takes in addition to q, k and v.

    Attributes:
        name: name of the argument.
        optional: whether it may be None.
        differentiable: whether it has a gradient.
    """

    name: str
    optional: bool = True
    differentiable: bool = True

    @property
    def schema(self) -> str:
        """Declaration of the argument in a schema."""
        return f"Tensor{'?' if self.optional else ''} {self.name}"


def define_attention(
    name: str,
    extras: Sequence[Extra],
    arguments: str,
    geometry: Callable[..., Any],
    kernels: Callable[[], Any],
    eager: Callable[..., Tensor],
    is_packed: bool = False,
) -> Any:
    """Defines `attnzoo::NAME(q, k, v, EXTRAS, ARGUMENTS, scale, *, may_fall_back) -> (out, logsumexp)`, and
    `attnzoo::NAME_backward`.

    The backward operator returns the gradients of q, k, v and the differentiable extras, and an empty tensor for each
    gradient that is not needed. It has no derivative of its own. Where kernels cannot be started and `may_fall_back` is
    true, both compute their results with `eager`, see `attnzoo.kernels.fallback`; the logsumexp is then undefined.

    Args:
        name: name of the operator.
        extras: its tensors in addition to q, k and v; they follow in the schema.
        arguments: declaration of its numbers, which describe the geometry.
        geometry: function of the map (H, W) and the numbers that returns the geometry.
        kernels: function that imports the module of the kernels, see `triton_attention.Kernels`.
        eager: function of q, k, v and the extras, the geometry and the scale, by position, in plain torch.
        is_packed: whether one tensor qkv (B, H, W, 3, h, D) takes the place of q, k and v. Its gradient is written by
            the kernels, where gradients of three parts would be copied into it.

    Returns:
        The operator, a callable.
    """
    packed = ["qkv"] if is_packed else ["q", "k", "v"]
    tensors = [*packed, *(extra.name for extra in extras)]
    wanted = [*packed, *(extra.name for extra in extras if extra.differentiable)]
    count = len(tensors)
    declared = ", ".join([*(f"Tensor {tensor}" for tensor in packed), *(extra.schema for extra in extras)])

    def parts(given: Sequence[Tensor]) -> Sequence[Tensor]:
        return given[0].unbind(3) if is_packed else given[:3]

    def in_eager(given: Sequence[Any], values: Sequence[Any], scale: float) -> Tensor:
        q, k, v = parts(given)
        return eager(q, k, v, *given[len(packed) :], geometry(k.shape[1:3], *values), scale)

    def run(*inputs: Any, may_fall_back: bool = False) -> tuple[Tensor, Tensor]:
        given, (*values, scale) = inputs[:count], inputs[count:]

        def start() -> tuple[Tensor, Tensor]:
            from . import triton_attention

            kind = name, *map(_hashable, values), scale
            at = partial(_geometry_at, geometry, values)
            return triton_attention.forward(kind, kernels(), given, tensors, at, scale)

        def substitute() -> tuple[Tensor, Tensor]:
            q = parts(given)[0]
            undefined = q.new_full(q.shape[:4], math.nan, dtype=torch.float32)
            return in_eager(given, values, scale).contiguous(), undefined

        return with_fallback(name, given[0].device, may_fall_back, start, substitute)

    def run_backward(dout: Tensor, *inputs: Any, may_fall_back: bool = False) -> tuple[Tensor, ...]:
        given, (out, logsumexp) = inputs[:count], inputs[count : count + 2]
        *values, scale, flags = inputs[count + 2 :]
        needs = dict(zip(wanted, flags, strict=True))

        def start() -> list[Tensor]:
            from . import triton_attention

            kind = name, *map(_hashable, values), scale
            at = partial(_geometry_at, geometry, values)
            return triton_attention.backward(kind, kernels(), dout, given, out, logsumexp, tensors, at, scale, needs)

        def substitute() -> list[Tensor]:
            every = dict(zip(tensors, given, strict=True))
            differentiated = {tensor: every[tensor] for tensor in wanted if needs[tensor]}

            def function(**x: Tensor) -> Tensor:
                return in_eager([*{**every, **x}.values()], values, scale)

            found = eager_gradients(function, differentiated, dout)
            return [found[tensor] for tensor in differentiated]

        found = iter(with_fallback(name, dout.device, may_fall_back, start, substitute))
        return tuple(next(found) if flag else dout.new_empty(0) for flag in flags)

    def fake(*inputs: Any, may_fall_back: bool = False) -> tuple[Tensor, Tensor]:
        q, _, v = parts(inputs)
        return v.new_empty(*q.shape[:4], v.shape[4]), q.new_empty(q.shape[:4], dtype=torch.float32)

    def fake_backward(dout: Tensor, *inputs: Any, may_fall_back: bool = False) -> tuple[Tensor, ...]:
        given = dict(zip(tensors, inputs, strict=False))
        return tuple(
            given[name].new_empty(given[name].shape) if needed and given[name] is not None else dout.new_empty(0)
            for name, needed in zip(wanted, inputs[-1], strict=True)
        )

    results = ", ".join(["Tensor"] * len(wanted))
    operator = define(
        name, f"({declared}, {arguments}, float scale, *, bool may_fall_back=False) -> (Tensor, Tensor)", run, fake
    )
    backward_operator = define(
        f"{name}_backward",
        f"(Tensor dout, {declared}, Tensor out, Tensor logsumexp, {arguments}, float scale, bool[] needs, "
        f"*, bool may_fall_back=False) -> {f'({results})' if len(wanted) > 1 else results}",
        run_backward,
        fake_backward,
    )

    def save(
        ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.save_for_backward(*inputs[:count], *output)
        ctx.rest, ctx.keywords = inputs[count:], keyword_only_inputs
        # do not materialize a zero gradient for the logsumexp, which is not used
        ctx.set_materialize_grads(False)

    def derivative(ctx: Any, dout: Tensor | None, _: Any) -> tuple[Any, ...]:
        needed = dict(zip(tensors, ctx.needs_input_grad, strict=False))
        flags = [needed[tensor] and dout is not None for tensor in wanted]
        found: dict[str, Tensor] = {}
        if dout is not None and any(flags):
            # a second derivative is refused by the operator
            is_direct = is_plain(dout) and not needs_differentiable_gradients(dout)
            compute = run_backward if is_direct else backward_operator
            gradients = compute(dout, *ctx.saved_tensors, *ctx.rest, flags, **ctx.keywords)
            gradients = (gradients,) if isinstance(gradients, Tensor) else gradients
            found = {tensor: x for tensor, x, flag in zip(wanted, gradients, flags, strict=True) if flag}
        return *(found.get(tensor) for tensor in tensors), *(None for _ in ctx.rest)

    differentiate(name, derivative, save)
    refuse_to_differentiate(
        f"{name}_backward",
        f"the Triton kernels of {name} have no second derivative: use backend='eager' where one is needed",
    )
    return _with_direct_calls(operator, run, save, derivative, count)


def _with_direct_calls(
    operator: Any, run: Callable[..., Any], save: Callable[..., None], derivative: Callable[..., Any], count: int
) -> Callable[..., tuple[Tensor, Tensor]]:
    """Returns a function that calls an operator, or directly what the operator calls.

    Torch's dispatcher takes about as long as the kernels' preparation. It is needed only where something may intercept
    the call, see `is_plain`.
    """

    class Direct(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
            given, keywords = inputs[:-1], inputs[-1]
            results: tuple[Tensor, Tensor] = run(*given, **keywords)
            save(ctx, given, keywords, results)
            return results

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor | None) -> Any:
            return *derivative(ctx, *gradients), None

    def call(*inputs: Any, **keywords: Any) -> tuple[Tensor, Tensor]:
        given = [x for x in inputs[:count] if x is not None]
        results: tuple[Tensor, Tensor]
        if not is_plain(*given):
            results = operator(*inputs, **keywords)
        elif torch.is_grad_enabled() and any(x.requires_grad for x in given):
            results = Direct.apply(*inputs, keywords)
        else:
            results = run(*inputs, **keywords)
        return results

    return call


def _geometry_at(geometry: Callable[..., Any], values: Sequence[Any], lengths: Sequence[int]) -> Any:
    return geometry(lengths, *values)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


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
