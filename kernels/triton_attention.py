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
    `q`, `k`, `v`, `out`, `logsumexp` and `scale`, the last two in powers of two, and backward `dout`, `delta`,
    `dq`, `dk` and `dv`, where out and its like are as a kernel takes them, see `tokens`.
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
    """The output (B, H', W', h, E) and the logsumexp of scores (B, H', W', h) in powers of two.

    Args:
        kernels: of the operator.
        q, k, v: (B, H', W', h, D), (B, H, W, h, D) and (B, H, W, h, E).
        extras: the operator's other tensors, by name.
        geometry: of the operator.
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
    """Gradients of q, k, v and the extras that are needed, by name.

    Args:
        kernels, q, k, v, extras, geometry, scale: as in `forward`.
        dout: gradient of the output.
        out, logsumexp: what `forward` gave.
        needs: by name, which gradients are needed.
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
    """The launches of the forward pass.

    Args:
        kernels: of the operator.
        problem: that they are for.
        tensors: by name, `q`, `k`, `v`, and to be filled `out` and the contiguous float32 `logsumexp` (B, H', W', h).
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
    """The launches of the backward pass, and what gives the gradients of extras after them.

    Args:
        kernels, problem, extras, scale: as in `forward_launches`.
        tensors: those of `forward_launches`, `dout`, and to be filled the contiguous float32 `delta`
            (B, H', W', h), `dq`, `dk` and `dv`.
        needs: by name, which gradients are needed.
    """
    return kernels.backward(problem, _arguments(kernels, problem, tensors, extras, scale), extras, needs)


def _arguments(
    kernels: Kernels, problem: Problem, tensors: Mapping[str, Tensor], extras: Extras, scale: float
) -> dict[str, Any]:
    # numbers of queries are contiguous, and have no channels
    given = {name: x if name in ("logsumexp", "delta") else tokens(x) for name, x in tensors.items()}
    return {**given, "scale": scale * LOG2_E.value, **kernels.arguments(problem, extras)}
