"""Selective scan with Triton kernels, as a torch operator. Triton is imported when the operator runs.

Shape legend: B batch, L steps, h heads, E channels of a head, N numbers of the state of a channel, K tiles of steps.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..fallback import EXECUTIONS, with_fallback
from ..fallback import gradients as eager_gradients
from ..flops import register_flop_formula
from ..fused import with_direct_calls
from ..library import define, differentiate, refuse_to_differentiate
from ..transforms import is_ordinary
from .order import heads_of
from .tiles import tiles_of

_TENSORS = ("u", "delta", "A", "B", "C", "D", "routes")
_WANTED = _TENSORS[:-1]
_DECLARED = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? routes"


def scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    routes: Tensor | None,
    may_fall_back: bool = False,
) -> Tensor:
    """The outputs of a linear system whose step size, input and output follow the tokens: .. -> (B, L, h, E)."""
    return _scan(u, delta, A, B, C, D, routes, may_fall_back=may_fall_back)


def _eager(*given: Tensor | None) -> Tensor:
    out: Tensor = EXECUTIONS["selective_scan"]["eager"](*given)
    return out


def _run(*given: Tensor | None, may_fall_back: bool = False) -> tuple[Tensor, Tensor]:
    u = given[0]
    assert u is not None

    def start() -> tuple[Tensor, Tensor]:
        from . import triton_launches

        return triton_launches.forward(given)

    def substitute() -> tuple[Tensor, Tensor]:
        undefined = _fake(*given)[1].fill_(math.nan)
        return _eager(*given).contiguous(), undefined

    return with_fallback("selective_scan", u.device, may_fall_back, start, substitute)


def _run_backward(dout: Tensor, *inputs: Any, may_fall_back: bool = False) -> tuple[Tensor, ...]:
    given, states, flags = inputs[:7], inputs[7], inputs[8]
    needs = dict(zip(_WANTED, flags, strict=True))

    def start() -> list[Tensor]:
        from . import triton_launches

        return triton_launches.backward(dout, given, states, needs)

    def substitute() -> list[Tensor]:
        every = dict(zip(_TENSORS, given, strict=True))
        differentiated = {name: every[name] for name in _WANTED if needs[name]}
        found = eager_gradients(lambda **x: _eager(*{**every, **x}.values()), differentiated, dout)
        return list(found.values())

    found = iter(with_fallback("selective_scan", dout.device, may_fall_back, start, substitute))
    return tuple(next(found) if flag else dout.new_empty(0) for flag in flags)


def _fake(*given: Tensor | None, may_fall_back: bool = False) -> tuple[Tensor, Tensor]:
    u, _, A, *_ = given
    assert u is not None
    assert A is not None
    heads = heads_of(*given)
    batch, steps, _, width = u.shape
    states = u.new_empty(batch, heads, tiles_of(steps), width, A.shape[2], dtype=torch.float32)
    return u.new_empty(batch, steps, heads, width), states


def _fake_backward(dout: Tensor, *inputs: Any, may_fall_back: bool = False) -> tuple[Tensor, ...]:
    needs = zip(inputs, inputs[8], strict=False)
    return tuple(x.new_empty(x.shape) if needed and x is not None else dout.new_empty(0) for x, needed in needs)


_operator = define("selective_scan", f"({_DECLARED}, *, bool may_fall_back=False) -> (Tensor, Tensor)", _run, _fake)
_backward_operator = define(
    "selective_scan_backward",
    f"(Tensor dout, {_DECLARED}, Tensor states, bool[] needs, *, bool may_fall_back=False) "
    f"-> ({', '.join(['Tensor'] * len(_WANTED))})",
    _run_backward,
    _fake_backward,
)


def _save(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, Tensor]
) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.keywords = keyword_only_inputs
    # do not materialize a zero gradient for the states, which are not used
    ctx.set_materialize_grads(False)


def _derivative(ctx: Any, dout: Tensor | None, _: Any) -> tuple[Any, ...]:
    flags = [needed and dout is not None for needed in ctx.needs_input_grad[: len(_WANTED)]]
    if dout is None or not any(flags):
        return (None,) * len(_TENSORS)
    # a second derivative is refused by the operator
    compute = _run_backward if is_ordinary(dout, ctx.saved_tensors) else _backward_operator
    gradients = compute(dout, *ctx.saved_tensors, flags, **ctx.keywords)
    return *(x if flag else None for x, flag in zip(gradients, flags, strict=True)), None


differentiate("selective_scan", _derivative, _save)
refuse_to_differentiate(
    "selective_scan_backward",
    "the Triton kernels of selective_scan have no second derivative: use backend='eager' where one is needed",
)
_scan = with_direct_calls(_operator, _run, _save, _derivative, len(_TENSORS))


def _numbers(out: Any, A: Any) -> int:
    """Numbers of all states, from the shapes of the output and of A."""
    return math.prod(out) * A[2]


# per number of a state: its exponent, decay and input, and its part of the output
@register_flop_formula(torch.ops.attnzoo.selective_scan)
def _flops(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, routes: Any, *, out_shape: Any, **_: Any) -> int:
    return 6 * _numbers(out_shape[0], A)


# the states again, and the gradients of each of these
@register_flop_formula(torch.ops.attnzoo.selective_scan_backward)
def _backward_flops(dout: Any, u: Any, delta: Any, A: Any, *others: Any, **_: Any) -> int:
    return 18 * _numbers(dout, A)
