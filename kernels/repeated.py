"""Calls of Triton kernels that were made before, whose arguments need no second check.

Checks of the arguments and the choice of an execution take longer than the start of kernels. What they decide follows
from shapes, strides, dtypes and devices, and is kept in the cache, see `attnzoo.kernels.cache`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from . import cache
from .fallback import has_failed
from .precision import precision_of
from .tracing import is_plain
from .transforms import is_ordinary

if TYPE_CHECKING:
    from .triton_plan import Plan

# bytes that a call and its prepared kernels take, about
_BYTES = 10 << 10


def signature_of(tensors: Sequence[Tensor | None]) -> tuple[Hashable, ...]:
    """Returns all of tensors that launches depend on: Triton compiles for the alignment of addresses."""
    return tuple([None if x is None else (x.shape, x.stride(), x.dtype, x.device, x.data_ptr() % 16) for x in tensors])


def key_of(function: Callable[..., Any], tensors: Sequence[Tensor | None], *options: Any) -> Hashable | None:
    """Returns what a call is kept under; None if its arguments must be checked each time.

    Args:
        function: the public operator.
        tensors: its tensors, after autocast; the first is not None.
        options: its other arguments, the last of which is the name of the backend.
    """
    first, backend = tensors[0], options[-1]
    if backend not in (None, "triton") or not isinstance(first, Tensor) or not (first.is_cuda or backend):
        return None
    if not is_plain(*[x for x in tensors if x is not None]) or has_failed() or forward_ad._current_level >= 0:
        return None
    # the text of options tells 1 from True, and a list is not hashable
    return function, repr(options), *map(type, options), precision_of(first.dtype), *signature_of(tensors)


def repeated(key: Hashable | None) -> Known | None:
    """Returns a call that needs no checks; None if its arguments must be checked."""
    found: Known | None = None if key is None else cache.read(key)
    return found


def remember(
    key: Hashable | None,
    function: Callable[..., Any],
    execution: Callable[..., Tensor],
    attend: Callable[..., Tensor],
    is_whole: bool = True,
) -> None:
    """Keeps a call that ran, if it ran kernels.

    Args:
        key: see `key_of`; with None nothing is kept.
        function: the public operator.
        execution: the chosen execution.
        attend: function of the tensors, and of `known`, the call, that calls the execution.
        is_whole: whether kernels do all of the work.
    """
    chosen = execution.func if isinstance(execution, partial) else execution
    if key is not None and chosen is function.executions["triton"]:  # type: ignore[attr-defined]
        cache.write(key, Known(attend, is_whole), _BYTES)


class Known:
    """A call that was made before.

    Args:
        attend: function of the tensors, and of `known`, this call.
        is_whole: whether kernels do all of the work, so that the prepared ones can be run without `attend`.

    Attributes:
        plan: the prepared kernels of the forward pass, once they ran for this call; None in the interpreter.
        gradients: function of the gradient of the output, the saved tensors, which gradients are needed, and `known`,
            for where no backward pass is prepared.
    """

    def __init__(self, attend: Callable[..., Tensor], is_whole: bool) -> None:
        self._attend, self._is_whole = attend, is_whole
        self.plan: Any = None
        self.gradients: Callable[..., Sequence[Tensor | None]] | None = None

    def __call__(self, *tensors: Tensor | None) -> Tensor:
        """Makes the call for other tensors."""
        if self.plan is None or not self._is_whole:
            return self._attend(*tensors, known=self)
        return self.run(tensors)

    def run(self, given: Sequence[Tensor | None]) -> Tensor:
        """Runs the prepared kernels, of which autograd is told."""
        out: Tensor
        if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given):
            out = _Repeated.apply(self, *given)
        else:
            out = self.plan.run(given)[0]
        return out

    def keep(self, plan: Plan, gradients: Callable[..., Sequence[Tensor | None]]) -> None:
        """Keeps the prepared kernels of the forward pass, and `gradients`."""
        # another thread may use the call as soon as it has a plan
        self.gradients = gradients
        self.plan = plan

    def keep_backward(self, plan: Plan, saved: Sequence[Tensor | None], needs: Sequence[bool]) -> None:
        """Keeps the prepared kernels of a backward pass, see `backward_key`."""
        cache.write(self.backward_key(saved, needs), plan, _BYTES)

    def backward_key(self, saved: Sequence[Tensor | None], needs: Sequence[bool]) -> Hashable:
        """Returns what the prepared kernels of a backward pass are kept under.

        Args:
            saved: gradient of the output, the given tensors, and the results of the forward pass. Hooks of autograd may
                have replaced those that were saved.
            needs: which of the given tensors need a gradient.
        """
        return self, tuple(needs), precision_of(saved[-2].dtype), *signature_of(saved)  # type: ignore[union-attr]


class _Repeated(torch.autograd.Function):
    """The prepared kernels of a known call, and those of its backward pass."""

    @staticmethod
    def forward(ctx: Any, known: Known, *given: Tensor | None) -> Tensor:
        out, logsumexp = known.plan.run(given)
        ctx.save_for_backward(*given, out, logsumexp)
        ctx.set_materialize_grads(False)
        ctx.known = known
        return out

    @staticmethod
    def backward(ctx: Any, dout: Tensor | None) -> Any:
        known, needs, saved = ctx.known, ctx.needs_input_grad[1:], ctx.saved_tensors
        if dout is not None and is_ordinary(dout, saved):
            plan = cache.read(known.backward_key((dout, *saved), needs))
            if plan is not None:
                found = iter(plan.run((dout, *saved)))
                return None, *[next(found) if needed else None for needed in needs]
        return None, *known.gradients(dout, saved, needs, known=known)
