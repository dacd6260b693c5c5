"""Public operator of the selective scan: checks the arguments and chooses an execution.

Shape legend: B batch, L tokens and steps, h heads, E channels of a head, N numbers of the state of a channel.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..arguments import autocast, execution_of, operator
from ..tracing import is_symbolic, is_traced
from ..transforms import is_transformed
from . import dynamic, eager, reference, triton
from .order import heads_of


@operator(reference=reference.scan, eager=eager.scan, triton=triton.scan)
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    routes: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Computes the outputs of a linear system that visits the tokens one after another, for every channel of a head.

    Step t visits the token r = routes[head, t]. With a state of N numbers that is zero before the first step,

        state = exp(delta[t] * A) * state + delta[t] * B[t] * u[r]
        out[r] = sum(C[t] * state) + D * u[r]

    A tensor with one head instead of h is shared by all heads. So one tensor u may be scanned along several routes.
    delta, B and C belong to steps, not to tokens: they are not reordered by the routes. The state is kept in float32
    at least, whatever the dtype of the tensors, by every backend.

    Args:
        u: values of the tokens (B, L, h, E), floating point, with any strides.
        delta: step sizes (B, L, h, E), usually positive.
        A: (h, E, N), usually negative; it is not cast by autocast, and neither is D.
        B: inputs (B, L, h, N).
        C: outputs (B, L, h, N).
        D: (h, E), or None for zeros.
        routes: (h, L) integer, for each head the tokens 0 .. L-1 in the order in which they are visited; None for
            their own order. On a CPU an error is raised if a row is no permutation. On other devices that is not
            checked, because it would wait for the device, and the result is undefined. The same holds while a model is
            traced or compiled.
        backend: `reference`, `eager` or `triton`, which runs or raises an error; None chooses, see
            `attnzoo.kernels.explain`.

    Returns:
        (B, L, h, E) in the dtype of u, or in the autocast dtype where autocast is on.

    Raises:
        TypeError: an argument has the wrong type, or the dtypes of tensors differ.
        ValueError: shapes do not fit, routes are no permutations, or the backend is unknown.

    Source: selective state space models, Mamba (arXiv 2312.00752, eq. 2 and algorithm 2), with the simplified
    discretization of B of its implementation.
    """
    u, delta, B, C = autocast(u, delta, B, C)
    _check(u=u, delta=delta, A=A, B=B, C=C, D=D)
    _check_routes(routes, u, heads_of(u, delta, A, B, C, D))
    # the width of the kernels' tiles is that of the state
    execution = execution_of(selective_scan, backend, B)
    if execution is eager.scan and is_symbolic([u.shape[1]]):
        execution = dynamic.scan
    return execution(u, delta, A, B, C, D, routes)


_AXES = {
    "u": ("batch", "steps", "heads", "channels"),
    "delta": ("batch", "steps", "heads", "channels"),
    "A": ("heads", "channels", "state"),
    "B": ("batch", "steps", "heads", "state"),
    "C": ("batch", "steps", "heads", "state"),
    "D": ("heads", "channels"),
}


def _check(**tensors: Tensor | None) -> None:
    """Checks types, axes, dtypes and devices; each axis has one length in all tensors, or one head."""
    u = tensors["u"]
    lengths: dict[str, tuple[str, int]] = {}
    for name, x in tensors.items():
        axes = _AXES[name]
        if x is None and name == "D":
            continue
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor ({', '.join(axes)}), got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"{name} must be floating point, got {x.dtype}")
        if x.ndim != len(axes):
            raise ValueError(f"{name} must have the axes ({', '.join(axes)}), got {tuple(x.shape)}")
        for axis, length in zip(axes, x.shape, strict=True):
            if axis == "heads" and length == 1:
                continue
            other, expected = lengths.setdefault(axis, (name, length))
            if length != expected:
                one = ", or one head" if axis == "heads" else ""
                raise ValueError(f"{name} must have the {axis} of {other}, {expected}{one}, got {tuple(x.shape)}")
            if length < 1 and axis != "batch":
                raise ValueError(f"{name} must not be empty, got {tuple(x.shape)}")
        assert u is not None
        # parameters may be kept in float32
        if x.dtype != u.dtype and not (name in "AD" and x.dtype == torch.float32):
            raise TypeError(f"{name} must have the dtype of u, {u.dtype}, got {x.dtype}")
        if x.device != u.device:
            raise ValueError(f"{name} must be on the device of u, {u.device}, got {x.device}")


def _check_routes(routes: Tensor | None, u: Tensor, heads: int) -> None:
    if routes is None:
        return
    if not isinstance(routes, Tensor):
        raise TypeError(f"routes must be an integer tensor (heads, steps) or None, got {type(routes).__name__}")
    if routes.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"routes must be token indices, int64 or int32, got {routes.dtype}")
    if routes.ndim != 2 or routes.shape[1] != u.shape[1] or (heads > 1 and routes.shape[0] != heads):
        wanted = heads if heads > 1 else "heads"
        raise ValueError(f"routes must be (heads, steps) = ({wanted}, {u.shape[1]}), got {tuple(routes.shape)}")
    if routes.device != u.device:
        raise ValueError(f"routes must be on the device of u, {u.device}, got {routes.device}")
    if routes.device.type == "cpu" and not is_traced() and not is_transformed():
        every = torch.arange(routes.shape[1], dtype=routes.dtype)
        if not torch.equal(routes.sort(1).values, every.expand(routes.shape)):
            raise ValueError(f"routes must contain each of the tokens 0 .. {routes.shape[1] - 1} once for every head")
