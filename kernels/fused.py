"""Registration of fused attention with Triton kernels as torch operators, and the calls of these operators.

Shape legend: B batch, H W map, h heads, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .fallback import gradients as eager_gradients
from .fallback import with_fallback
from .library import define, differentiate, refuse_to_differentiate
from .packed import unpacked
from .repeated import Known
from .tracing import is_plain
from .transforms import is_ordinary

if TYPE_CHECKING:
    from .triton_plan import Plan


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

    def parts(given: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return unpacked(given[: len(packed)])

    def kind_of(values: Sequence[Any], scale: float) -> tuple[Any, ...]:
        return name, *(tuple(value) if isinstance(value, list) else value for value in values), scale

    def in_eager(given: Sequence[Any], values: Sequence[Any], scale: float) -> Tensor:
        q, k, v = parts(given)
        return eager(q, k, v, *given[len(packed) :], geometry(k.shape[1:3], *values), scale)

    def run(*inputs: Any, may_fall_back: bool = False, known: Known | None = None) -> tuple[Tensor, Tensor]:
        given, (*values, scale) = inputs[:count], inputs[count:]

        def keep(plan: Plan) -> None:
            if known is not None:
                known.keep(plan, partial(gradients, rest=inputs[count:], may_fall_back=may_fall_back))

        def start() -> tuple[Tensor, Tensor]:
            from . import triton_attention

            return triton_attention.forward(
                kind_of(values, scale),
                kernels(),
                given,
                tensors,
                lambda lengths: geometry(lengths, *values),
                scale,
                keep,
            )

        def substitute() -> tuple[Tensor, Tensor]:
            q = parts(given)[0]
            undefined = q.new_full(q.shape[:4], math.nan, dtype=torch.float32)
            return in_eager(given, values, scale).contiguous(), undefined

        return with_fallback(name, given[0].device, may_fall_back, start, substitute)

    def run_backward(
        dout: Tensor, *inputs: Any, may_fall_back: bool = False, known: Known | None = None
    ) -> tuple[Tensor, ...]:
        given, (out, logsumexp) = inputs[:count], inputs[count : count + 2]
        *values, scale, flags = inputs[count + 2 :]
        needs = dict(zip(wanted, flags, strict=True))

        def keep(plan: Plan) -> None:
            if known is not None:
                needed = [needs.get(tensor, False) for tensor in tensors]
                known.keep_backward(plan, (dout, *given, out, logsumexp), needed)

        def start() -> list[Tensor]:
            from . import triton_attention

            return triton_attention.backward(
                kind_of(values, scale),
                kernels(),
                dout,
                given,
                out,
                logsumexp,
                tensors,
                lambda lengths: geometry(lengths, *values),
                scale,
                needs,
                keep,
            )

        def substitute() -> list[Tensor]:
            every = dict(zip(tensors, given, strict=True))
            differentiated = {tensor: every[tensor] for tensor in wanted if needs[tensor]}

            def function(**x: Tensor) -> Tensor:
                return in_eager([*{**every, **x}.values()], values, scale)

            found = eager_gradients(function, differentiated, dout)
            return [found[tensor] for tensor in differentiated]

        found = iter(with_fallback(name, dout.device, may_fall_back, start, substitute))
        return tuple([next(found) if flag else dout.new_empty(0) for flag in flags])

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

    def gradients(
        dout: Tensor | None,
        saved: Sequence[Tensor],
        needs: Sequence[bool],
        rest: Sequence[Any],
        may_fall_back: bool = False,
        known: Known | None = None,
    ) -> list[Tensor | None]:
        needed = dict(zip(tensors, needs, strict=False))
        flags = [needed[tensor] and dout is not None for tensor in wanted]
        found: dict[str, Tensor] = {}
        if dout is not None and any(flags):
            # a second derivative is refused by the operator
            compute = partial(run_backward, known=known) if is_ordinary(dout, saved) else backward_operator
            results = compute(dout, *saved, *rest, flags, may_fall_back=may_fall_back)
            results = (results,) if isinstance(results, Tensor) else results
            found = {tensor: x for tensor, x, flag in zip(wanted, results, flags, strict=True) if flag}
        return [found.get(tensor) for tensor in tensors]

    def derivative(ctx: Any, dout: Tensor | None, _: Any) -> tuple[Any, ...]:
        found = gradients(dout, ctx.saved_tensors, ctx.needs_input_grad, ctx.rest, **ctx.keywords)
        return *found, *(None for _ in ctx.rest)

    differentiate(name, derivative, save)
    refuse_to_differentiate(
        f"{name}_backward",
        f"the Triton kernels of {name} have no second derivative: use backend='eager' where one is needed",
    )
    return with_direct_calls(operator, run, save, derivative, count)


def with_direct_calls(
    operator: Any, run: Callable[..., Any], save: Callable[..., None], derivative: Callable[..., Any], count: int
) -> Callable[..., Tensor]:
    """Returns a function for the output of an operator that calls it, or directly what it calls.

    Torch's dispatcher takes about as long as the kernels' preparation. It is needed only where something may intercept
    the call, see `is_plain`; `known`, a call that was made before, says that nothing does.
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

    def call(*inputs: Any, known: Known | None = None, **keywords: Any) -> Tensor:
        if known is not None:
            if known.plan is not None:
                return known.run(inputs[:count])
            keywords["known"] = known
        given = [x for x in inputs[:count] if x is not None]
        if known is None and not is_plain(*given):
            compute = operator
        elif torch.is_grad_enabled() and any(x.requires_grad for x in given):
            return Direct.apply(*inputs, keywords)[0]
        else:
            compute = run
        return compute(*inputs, **keywords)[0]

    return call
