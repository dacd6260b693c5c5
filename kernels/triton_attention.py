"""Fused attention on tensors, shared by all operators: allocates results, names arguments, runs launches in order.

Shape legend: B batch, H' W' map of queries, H W map of keys, h heads, D width of queries and keys, E width of values.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from .packed import parts_of
from .triton_launch import Launch
from .triton_math import LOG2_E
from .triton_plan import Plan, Result, Workspace, run
from .triton_problem import Problem, tokens

Extras = Mapping[str, Tensor | None]


class Kernels(Protocol):
    """The kernels of an operator: a module `triton_kernels` with these three functions.

    The arguments of all kernels of a call are in one mapping, and each kernel receives those that its signature names.
    Every operator has `q`, `k`, `v`, `out`, `logsumexp` and `scale`; the last two are in base 2, so `scale` includes
    log2(e). The backward pass adds `dout`, `delta`, `dq`, `dk` and `dv`. Tensors with channels are passed as `Tokens`,
    see `tokens`. Temporary tensors come from the workspace of the problem.
    """

    def arguments(self, problem: Problem, extras: Extras) -> dict[str, Any]:
        """Returns the operator's own arguments: its map, and its tensors in addition to q, k and v."""

    def forward(self, problem: Problem, arguments: Mapping[str, Any]) -> list[Launch]:
        """Returns the launches that fill `out` and `logsumexp`."""

    def backward(
        self, problem: Problem, arguments: Mapping[str, Any], extras: Extras, needs: Mapping[str, bool]
    ) -> tuple[list[Launch], dict[str, Result]]:
        """Returns the launches that fill the needed gradients of q, k and v, and the gradients of the needed extras."""


def forward(
    kind: Hashable,
    kernels: Kernels,
    given: Sequence[Tensor | None],
    names: Sequence[str],
    geometry: Any,
    scale: float,
    keep: Callable[[Plan], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Computes the output (B, H', W', h, E) and the base-2 logsumexp of the scores (B, H', W', h).

    Args:
        kind: what tells this operator, its geometry and its scale from others.
        kernels: kernels of the operator.
        given: q (B, H', W', h, D), k (B, H, W, h, D), v (B, H, W, h, E), or the packed qkv (B, H, W, 3, h, D) in their
            place, and the operator's other tensors.
        names: names of these tensors.
        geometry: function of the map (H, W) that returns the geometry of the operator.
        scale: factor of the scores.
        keep: function that is given the prepared call, see `run`.
    """

    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        tensors, extras = _named(workspace, names)
        q, k, v = (tensors[name] for name in ("q", "k", "v"))
        out = tensors["out"] = workspace.empty((*q.shape[:4], v.shape[4]), v.dtype, v.device)
        logsumexp = tensors["logsumexp"] = workspace.empty(q.shape[:4], torch.float32, q.device)
        problem = Problem.of(q, v, geometry(k.shape[1:3]), workspace)
        return forward_launches(kernels, problem, tensors, extras, scale), [Result(out), Result(logsumexp)]

    out, logsumexp = run(("forward", kind), given, build, keep)
    return out, logsumexp


def backward(
    kind: Hashable,
    kernels: Kernels,
    dout: Tensor,
    given: Sequence[Tensor | None],
    out: Tensor,
    logsumexp: Tensor,
    names: Sequence[str],
    geometry: Any,
    scale: float,
    needs: Mapping[str, bool],
    keep: Callable[[Plan], None] | None = None,
) -> list[Tensor]:
    """Computes the needed gradients, in the order of `needs`.

    Args:
        kind, kernels, given, names, geometry, scale, keep: as in `forward`.
        dout: gradient of the output.
        out, logsumexp: results of `forward`.
        needs: which gradients are needed, by name.
    """

    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        tensors, extras = _named(workspace, ("dout", *names, "out", "logsumexp"))
        q, k, v = (tensors[name] for name in ("q", "k", "v"))
        tensors["delta"] = workspace.empty(logsumexp.shape, torch.float32, q.device)
        gradients: dict[str, Tensor] = {}
        if "qkv" in names:
            packed = gradients["qkv"] = workspace.empty((*q.shape[:3], 3, *q.shape[3:]), q.dtype, q.device)
            tensors["dq"], tensors["dk"], tensors["dv"] = workspace.make(parts_of, packed)
        else:
            for name, x in (("q", q), ("k", k), ("v", v)):
                tensors[f"d{name}"] = gradients[name] = workspace.empty(x.shape, q.dtype, q.device)
        problem = Problem.of(q, v, geometry(k.shape[1:3]), workspace)
        needed = {**dict.fromkeys(("q", "k", "v"), needs.get("qkv", False)), **needs}
        launches, of_extras = backward_launches(kernels, problem, tensors, extras, scale, needed)
        results = {**{name: Result(x) for name, x in gradients.items()}, **of_extras}
        return launches, [results[name] for name, is_needed in needs.items() if is_needed]

    return run(("backward", kind, *needs.values()), (dout, *given, out, logsumexp), build, keep)


def _named(workspace: Workspace, names: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, Tensor | None]]:
    """Returns the given tensors of an attention operator with q, k and v, and its other tensors, by name."""
    every = dict(zip(names, workspace.given, strict=True))
    own = ("dout", "q", "k", "v", "qkv", "out", "logsumexp")
    tensors = {name: x for name, x in every.items() if name in own and x is not None}
    if "qkv" in tensors:
        tensors["q"], tensors["k"], tensors["v"] = workspace.make(parts_of, tensors.pop("qkv"))
    return tensors, {name: x for name, x in every.items() if name not in own}


def forward_launches(
    kernels: Kernels, problem: Problem, tensors: Mapping[str, Tensor], extras: Extras, scale: float
) -> list[Launch]:
    """Returns the launches of the forward pass.

    Args:
        kernels: kernels of the operator.
        problem: geometry and sizes of the call.
        tensors: by name, `q`, `k`, `v`, and the tensors to fill: `out` and the contiguous float32 `logsumexp` (B, H',
            W', h).
        extras: the operator's other tensors, by name.
        scale: factor of the scores.
    """
    return kernels.forward(problem, _arguments(kernels, problem, tensors, extras, scale))


def backward_launches(
    kernels: Kernels,
    problem: Problem,
    tensors: Mapping[str, Tensor],
    extras: Extras,
    scale: float,
    needs: Mapping[str, bool],
) -> tuple[list[Launch], dict[str, Result]]:
    """Returns the launches of the backward pass, and by name the gradients of extras.

    Args:
        kernels, problem, extras, scale: as in `forward_launches`.
        tensors: the tensors of `forward_launches`, `dout`, and the tensors to fill: the contiguous float32 `delta` (B,
            H', W', h), `dq`, `dk` and `dv`.
        needs: which gradients are needed, by name.
    """
    return kernels.backward(problem, _arguments(kernels, problem, tensors, extras, scale), extras, needs)


def _arguments(
    kernels: Kernels, problem: Problem, tensors: Mapping[str, Tensor], extras: Extras, scale: float
) -> dict[str, Any]:
    # tensors with one number per query are contiguous and have no channels
    given = {name: x if name in ("logsumexp", "delta") else tokens(x) for name, x in tensors.items()}
    return {**given, "scale": scale * LOG2_E.value, **kernels.arguments(problem, extras)}
