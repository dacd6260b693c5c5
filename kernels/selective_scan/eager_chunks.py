"""Selective scan on a CPU: some images and channels after one another, in reused memory.

The state of a channel is laid out with channels last, (N, E), so that every operation runs along contiguous channels.

Shape legend: B batch, L steps, h heads, E channels, N numbers of the state of a channel, K chunks of T steps. I images
are computed together. G is 1 where all heads share delta and A, and with them the decay of the state, and h elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from ..transforms import differentiable_gradients, needs_differentiable_gradients
from . import eager_batch
from .eager_batch import chunks_of
from .order import by_step, by_token, heads_of

# numbers of the states of all chunks at one step: enough to hide the overhead of a call, few enough to stay in cache
FORWARD_NUMBERS = 160 * 1024
# the backward pass keeps the states of all steps
BACKWARD_NUMBERS = 64 * 1024

Parameters = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None]


def forward(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, routes: Tensor | None
) -> Tensor:
    """The outputs of a linear system whose step size, input and output follow the tokens: .. -> (B, L, h, E)."""
    dtype, heads = torch.promote_types(u.dtype, torch.float32), heads_of(u, delta, A, B, C, D, routes)
    out = u.new_empty(*u.shape[:2], heads, u.shape[3])
    for images in _images(u, A, heads, FORWARD_NUMBERS):
        x, sizes, inputs, outputs = (y[images].to(dtype) for y in (u, delta, B, C))
        x = by_step(x, routes, heads)
        chunks = _Chunks(x, sizes, inputs, outputs, A.to(dtype))
        y = chunks.outputs()
        if D is not None:
            y.addcmul_(x, D.to(dtype))
        out[images] = by_token(y, routes)
    return out


def backward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    routes: Tensor | None,
    grad: Tensor,
) -> Parameters:
    """Returns the gradients of all tensors."""
    dtype, heads = torch.promote_types(u.dtype, torch.float32), heads_of(u, delta, A, B, C, D, routes)
    du, ddelta, dB, dC = (x.new_empty(x.shape) for x in (u, delta, B, C))
    dA = torch.zeros_like(A, dtype=dtype)
    dD = None if D is None else torch.zeros_like(D, dtype=dtype)
    for images in _images(u, A, heads, BACKWARD_NUMBERS):
        x, sizes, inputs, outputs, dy = (y[images].to(dtype) for y in (u, delta, B, C, grad))
        x, dy = by_step(x, routes, heads), by_step(dy, routes, heads)
        chunks = _Chunks(x, sizes, inputs, outputs, A.to(dtype))
        dx, of_delta, of_B, of_C, of_A = chunks.gradients(dy)
        for gradient, part in ((ddelta, of_delta), (dB, of_B), (dC, of_C)):
            gradient[images] = _summed(part, gradient.shape[2], 2)
        dA += _summed(of_A, dA.shape[0], 0)
        if D is not None and dD is not None:
            dx.addcmul_(dy, D.to(dtype))
            dD += _summed((dy * x).sum((0, 1)), dD.shape[0], 0)
        du[images] = _summed(by_token(dx, routes), u.shape[2], 2)
    return du, ddelta, dA.to(A.dtype), dB, dC, None if D is None or dD is None else dD.to(D.dtype)


def _images(u: Tensor, A: Tensor, heads: int, numbers: int) -> Iterator[slice]:
    """Yields the images that are computed together: one, unless its states are small."""
    chunks, _ = chunks_of(u.shape[1])
    return _slices(len(u), numbers // (chunks * heads * A[0].numel()))


def _slices(length: int, step: int) -> Iterator[slice]:
    """Returns consecutive slices of length `step`, at least 1."""
    step = max(1, step)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _summed(x: Tensor, heads: int, axis: int) -> Tensor:
    """Sums a gradient over all heads where they share one tensor."""
    return x if x.shape[axis] == heads else x.sum(axis, keepdim=True)


class _Chunks:
    """The chunks of some images, side by side: tensors (T, I * K, h, .), with zeros after the last step.

    Args:
        x: values (I, L, h, E) in the order of the steps.
        delta: step sizes (I, L, h or 1, E).
        B, C: inputs and outputs (I, L, h or 1, N).
        A: (h or 1, E, N).
    """

    def __init__(self, x: Tensor, delta: Tensor, B: Tensor, C: Tensor, A: Tensor) -> None:
        self.images, self.steps, self.heads, self.width = x.shape
        self.chunks, self.length = chunks_of(self.steps)
        groups = max(delta.shape[2], len(A))
        self.x, self.step_sizes = x, delta
        # (G, N, E)
        self.A = A.mT.contiguous().expand(groups, -1, -1)
        self.delta = self._cut(delta.expand(-1, -1, groups, -1))
        self.given = self._cut(delta * x)
        self.B, self.C = (self._cut(y.expand(-1, -1, self.heads, -1)) for y in (B, C))

    def outputs(self) -> Tensor:
        """Returns the sums of states, weighted by C, (I, L, h, E)."""
        out = torch.empty_like(self.given)
        for channels in self._blocks(FORWARD_NUMBERS):
            decay, total = self._decays(channels)
            state = self._first_states(decay, total, channels)
            added = torch.empty_like(state)
            for step in range(self.length):
                self._outer(self.given, self.B, step, channels, added)
                torch.addcmul(added, decay[step], state, out=state)
                out[step, ..., channels] = self._weighted(self.C, step, state)
        return self._uncut(out)

    def gradients(self, dy: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Returns the gradients of x, delta, B, C and A for those of the outputs (I, L, h, E).

        Those of tensors with one head may have one head, or h of them that remain to be summed.
        """
        dout = self._cut(dy)
        dgiven, ddelta, dA = (torch.empty_like(y) for y in (self.given, self.delta, self.A))
        dB, dC = torch.zeros_like(self.B), torch.zeros_like(self.C)
        for channels in self._blocks(BACKWARD_NUMBERS):
            decay, total = self._decays(channels)
            first = self._first_states(decay, total, channels)
            # the state before every step, and the last one
            states = first.new_empty(self.length + 1, *first.shape)
            states[0] = first
            gradient = torch.empty_like(first)
            for step in range(self.length):
                self._outer(self.given, self.B, step, channels, gradient)
                torch.addcmul(gradient, decay[step], states[step], out=states[step + 1])
            carried = self._last_gradients(dout, decay, total, channels)
            for step in reversed(range(self.length)):
                self._outer(dout, self.C, step, channels, gradient)
                gradient.add_(carried)
                dgiven[step, ..., channels] = self._weighted(self.B, step, gradient)
                self._add_products(dB, gradient, self.given, step, channels)
                self._add_products(dC, states[step + 1], dout, step, channels)
                torch.mul(decay[step], gradient, out=carried)
                # the gradient of delta * A, in the place of its exponential
                torch.mul(carried, states[step], out=gradient)
                decay[step] = _summed(gradient, decay.shape[2], 1)
            ddelta[..., channels] = (decay * self.A[..., channels]).sum(3)
            dA[..., channels] = (decay * self.delta[..., channels].unsqueeze(3)).sum((0, 1))
        dgiven, ddelta, dB, dC = (self._uncut(y) for y in (dgiven, ddelta, dB, dC))
        ddelta = ddelta + _summed(dgiven * self.x, ddelta.shape[2], 2)
        return dgiven * self.step_sizes, ddelta, dB, dC, dA.mT

    def _cut(self, x: Tensor) -> Tensor:
        """(I, L, h, .) -> (T, I * K, h, .)."""
        if self.chunks * self.length > self.steps:
            padded = x.new_zeros(self.images, self.chunks * self.length, *x.shape[2:])
            padded[:, : self.steps] = x
            x = padded
        x = x.unflatten(1, (self.chunks, self.length)).permute(2, 0, 1, 3, 4)
        return x.contiguous().flatten(1, 2)

    def _uncut(self, x: Tensor) -> Tensor:
        """(T, I * K, h, .) -> (I, L, h, .)."""
        x = x.unflatten(1, (self.images, self.chunks)).permute(1, 2, 0, 3, 4)
        return x.flatten(1, 2)[:, : self.steps]

    def _blocks(self, numbers: int) -> Iterator[slice]:
        """Yields the channels that are computed together; their count is a whole part of all of them, or nearly so."""
        of_channel = self.images * self.chunks * self.heads * self.A.shape[1]
        count = -(-self.width * of_channel // numbers)
        return _slices(self.width, -(-self.width // max(1, count)))

    def _decays(self, channels: slice) -> tuple[Tensor, Tensor]:
        """Returns the factors of the states, of every step (T, I * K, G, N, E) and of a chunk (I * K, G, N, E)."""
        delta, A = self.delta[..., channels].unsqueeze(3), self.A[..., channels]
        return torch.mul(delta, A).exp_(), torch.mul(delta.sum(0), A).exp_()

    def _outer(self, values: Tensor, weights: Tensor, step: int, channels: slice, out: Tensor) -> None:
        """(I * K, h, E) and (I * K, h, N) -> products (I * K, h, N, E)."""
        torch.mul(values[step, ..., channels].unsqueeze(2), weights[step].unsqueeze(3), out=out)

    def _weighted(self, weights: Tensor, step: int, states: Tensor) -> Tensor:
        """(I * K, h, N) and (I * K, h, N, E) -> sums over N (I * K, h, E)."""
        return torch.matmul(weights[step].unsqueeze(2), states).squeeze(2)

    def _add_products(self, total: Tensor, states: Tensor, values: Tensor, step: int, channels: slice) -> None:
        """Adds to (I * K, h, N) sums over E of (I * K, h, N, E) and (I * K, h, E)."""
        total[step] += torch.matmul(states, values[step, ..., channels].unsqueeze(3)).squeeze(3)

    def _first_states(self, decay: Tensor, total: Tensor, channels: slice) -> Tensor:
        """Returns the state that every chunk starts with (I * K, h, N, E)."""
        state, added = self._zeros(decay), self._zeros(decay)
        if self.chunks > 1:
            for step in range(self.length):
                self._outer(self.given, self.B, step, channels, added)
                torch.addcmul(added, decay[step], state, out=state)
            self._link(state, total, range(self.chunks))
        return state

    def _last_gradients(self, dout: Tensor, decay: Tensor, total: Tensor, channels: slice) -> Tensor:
        """Returns the gradient of the state that every chunk ends with (I * K, h, N, E)."""
        gradient, added = self._zeros(decay), self._zeros(decay)
        if self.chunks > 1:
            for step in reversed(range(self.length)):
                self._outer(dout, self.C, step, channels, added)
                torch.mul(gradient.add_(added), decay[step], out=gradient)
            self._link(gradient, total, reversed(range(self.chunks)))
        return gradient

    def _link(self, states: Tensor, total: Tensor, order: Iterable[int]) -> None:
        """Replaces what each chunk makes of zeros by what it gets from the chunks before, in this order."""
        states, total = (x.unflatten(0, (self.images, self.chunks)) for x in (states, total))
        given = torch.zeros_like(states[:, 0])
        for chunk in order:
            made = torch.addcmul(states[:, chunk], total[:, chunk], given)
            states[:, chunk] = given
            given = made

    def _zeros(self, decay: Tensor) -> Tensor:
        return decay.new_zeros(decay.shape[1], self.heads, *decay.shape[3:])


class Scan(torch.autograd.Function):
    """A scan that saves only its inputs and recomputes the states in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, routes: Tensor | None
    ) -> Tensor:
        """Same as the function `forward`."""
        ctx.save_for_backward(u, delta, A, B, C, D, routes)
        return forward(u, delta, A, B, C, D, routes)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of all tensors."""
        u, delta, A, B, C, D, routes = ctx.saved_tensors
        if needs_differentiable_gradients(grad):

            def scan(*tensors: Any) -> Tensor:
                return eager_batch.scan(*(*tensors, routes))

            return *differentiable_gradients(scan, (u, delta, A, B, C, D), grad), None
        return *backward(u, delta, A, B, C, D, routes, grad), None
