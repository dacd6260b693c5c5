"""Fused attention on tensors, shared by all operators: allocates results, names arguments, runs launches in order.

Shape legend: B batch, H' W' map of queries, H W map of keys, h heads, D width of queries and keys, E width of values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from .triton_launch import Launch
from .triton_math import LOG2_E
from .triton_problem import Problem, tokens

Extras = Mapping[str, Tensor | None]


class Kernels(Protocol):
    """The kernels of an operator: a module `triton_kernels` with these three functions.

    The arguments of all kernels of a call are in one mapping, and each kernel receives those that its signature names.
    Every operator has `q`, `k`, `v`, `out`, `logsumexp` and `scale`; the last two are in base 2, so `scale` includes
    log2(e). The backward pass adds `dout`, `delta`, `dq`, `dk` and `dv`. Tensors with channels are passed as `Tokens`,
    see `tokens`.
    """

    def arguments(self, problem: Problem, extras: Extras) -> dict[str, Any]:
        """Returns the operator's own arguments: its map, and its tensors in addition to q, k and v."""

    def forward(self, problem: Problem, arguments: Mapping[str, Any]) -> list[Launch]:
        """Returns the launches that fill `out` and `logsumexp`."""

    def backward(
        self, problem: Problem, arguments: Mapping[str, Any], extras: Extras, needs: Mapping[str, bool]
    ) -> tuple[list[Launch], Callable[[], list[Tensor]]]:
        """Returns the launches that fill the needed gradients of q, k and v.

        Returns:
            The launches, and a function that returns the gradients of the needed extras after the launches have run.
        """


def forward(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, extras: Extras, geometry: Any, scale: float
) -> tuple[Tensor, Tensor]:
    """Computes the output (B, H', W', h, E) and the base-2 logsumexp of the scores (B, H', W', h).

    Args:
        kernels: kernels of the operator.
        q, k, v: (B, H', W', h, D), (B, H, W, h, D) and (B, H, W, h, E).
        extras: the operator's other tensors, by name.
        geometry: geometry of the operator.
        scale: factor of the scores.
    """
    out = torch.empty(*q.shape[:4], v.shape[4], dtype=v.dtype, device=v.device)
    logsumexp = torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)
    tensors = {"q": q, "k": k, "v": v, "out": out, "logsumexp": logsumexp}
    for launch in forward_launches(kernels, Problem.of(q, v, geometry), tensors, extras, scale):
        launch.run()
    return out, logsumexp


def backward(
    kernels: Kernels,
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extras: Extras,
    out: Tensor,
    logsumexp: Tensor,
    geometry: Any,
    scale: float,
    needs: Mapping[str, bool],
) -> dict[str, Tensor]:
    """Computes the needed gradients of q, k, v and the extras, by name.

    Args:
        kernels, q, k, v, extras, geometry, scale: as in `forward`.
        dout: gradient of the output.
        out, logsumexp: results of `forward`.
        needs: which gradients are needed, by name.
    """
    tensors = {"q": q, "k": k, "v": v, "out": out, "logsumexp": logsumexp, "dout": dout}
    tensors["delta"] = torch.empty_like(logsumexp)
    gradients = {}
    for name in ("q", "k", "v"):
        gradients[name] = torch.empty(tensors[name].shape, dtype=q.dtype, device=q.device)
        tensors[f"d{name}"] = gradients[name]
    launches, finish = backward_launches(kernels, Problem.of(q, v, geometry), tensors, extras, scale, needs)
    for launch in launches:
        launch.run()
    differentiated = [name for name, x in extras.items() if x is not None and needs.get(name)]
    gradients |= zip(differentiated, finish(), strict=True)
    return {name: gradient for name, gradient in gradients.items() if needs[name]}


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
) -> tuple[list[Launch], Callable[[], list[Tensor]]]:
    """Returns the launches of the backward pass, and a function that returns the gradients of extras after them.

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
