"""Fused attention on tensors, whichever the operator: memory for results, arguments by name, launches in their order.

Shape legend: B batch, H' W' map of queries, H W of keys, h heads, D width of queries and keys, E width of values.
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

    The arguments of all kernels of a call are one mapping; each kernel takes those that it names. Every operator has
    `q`, `k`, `v`, `out`, `logsumexp` and `scale`, the last two in powers of two, and backward `upstream`, `delta`,
    `q_gradient`, `k_gradient` and `v_gradient`, where out and its like are as a kernel takes them, see `tokens`.
    """

    def arguments(self, problem: Problem, extras: Extras) -> dict[str, Any]:
        """The arguments that this operator has beside: its map, and the tensors beside q, k and v."""

    def forward(self, problem: Problem, arguments: Mapping[str, Any]) -> list[Launch]:
        """The launches that fill `out` and `logsumexp`."""

    def backward(
        self, problem: Problem, arguments: Mapping[str, Any], extras: Extras, needs: Mapping[str, bool]
    ) -> tuple[list[Launch], Callable[[], list[Tensor]]]:
        """The launches that fill the gradients of q, k and v that are needed.

        Returns:
            The launches, and what gives the gradients of the needed extras after them.
        """


def forward(
    kernels: Kernels, q: Tensor, k: Tensor, v: Tensor, extras: Extras, geometry: Any, scale: float
) -> tuple[Tensor, Tensor]:
    """The output (B, H', W', h, E) and, for the backward pass, the logsumexp of scores (B, H', W', h) in powers of two.

    Args:
        kernels: of the operator.
        q, k, v: (B, H', W', h, D), (B, H, W, h, D) and (B, H, W, h, E).
        extras: the operator's other tensors, by name.
        geometry: of the operator.
        scale: factor of the scores.
    """
    problem = Problem.of(q, v, geometry)
    out = torch.empty(*q.shape[:4], v.shape[4], dtype=v.dtype, device=v.device)
    logsumexp = torch.empty(q.shape[:4], dtype=torch.float32, device=q.device)
    arguments = _arguments(kernels, problem, q, k, v, extras, out, logsumexp, scale)
    for launch in kernels.forward(problem, arguments):
        launch.run()
    return out, logsumexp


def backward(
    kernels: Kernels,
    upstream: Tensor,
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
    """Gradients of q, k, v and the extras that are needed, by name.

    Args:
        kernels, q, k, v, extras, geometry, scale: as in `forward`.
        upstream: gradient of the output.
        out, logsumexp: what `forward` gave.
        needs: by name, which gradients are needed.
    """
    problem = Problem.of(q, v, geometry)
    gradients = {
        name: torch.empty(x.shape, dtype=x.dtype, device=x.device) for name, x in (("q", q), ("k", k), ("v", v))
    }
    arguments = _arguments(kernels, problem, q, k, v, extras, out, logsumexp, scale)
    arguments |= {
        "upstream": tokens(upstream),
        "delta": torch.empty_like(logsumexp),
        **{f"{name}_gradient": tokens(x) for name, x in gradients.items()},
    }
    launches, finish = kernels.backward(problem, arguments, extras, needs)
    for launch in launches:
        launch.run()
    differentiated = [name for name, x in extras.items() if x is not None and needs.get(name)]
    gradients |= zip(differentiated, finish(), strict=True)
    return {name: gradient for name, gradient in gradients.items() if needs[name]}


def _arguments(
    kernels: Kernels,
    problem: Problem,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extras: Extras,
    out: Tensor,
    logsumexp: Tensor,
    scale: float,
) -> dict[str, Any]:
    return {
        "q": tokens(q),
        "k": tokens(k),
        "v": tokens(v),
        "out": tokens(out),
        "logsumexp": logsumexp,
        "scale": scale * LOG2_E.value,
        **kernels.arguments(problem, extras),
    }
