"""Launches of the kernels of an operator on meta tensors, for the static benchmark."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.bfloat16, torch.float32)
BATCH = 128


def launches_of(
    kernels: Any,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    extras: Mapping[str, Tensor],
    geometry: Any,
    architecture: str,
    direction: str,
) -> list[Any]:
    """Returns the launches of an operator for an architecture.

    Args:
        kernels: module of the operator's kernels; see `attnzoo.kernels.triton_attention.Kernels`.
        q, k, v: meta tensors, with the strides they have in a network.
        extras: the operator's other tensors, by name.
        geometry: geometry of the operator.
        architecture: architecture for which configurations are chosen.
        direction: "forward", or "backward" with all gradients.
    """
    from attnzoo.kernels.triton_attention import backward_launches, forward_launches
    from attnzoo.kernels.triton_problem import Problem

    problem = dataclasses.replace(Problem.of(q, v, geometry), architecture=architecture)
    out, numbers = q.new_empty(*q.shape[:4], v.shape[4]), torch.empty(q.shape[:4], device="meta")
    tensors = {"q": q, "k": k, "v": v, "out": out, "logsumexp": numbers}
    if direction == "forward":
        return forward_launches(kernels, problem, tensors, extras, 1.0)
    gradients = {f"d{name}": x.new_empty(x.shape) for name, x in (("q", q), ("k", k), ("v", v))}
    tensors |= {"dout": out, "delta": numbers, **gradients}
    needs = dict.fromkeys(("q", "k", "v", *extras), True)
    return backward_launches(kernels, problem, tensors, extras, 1.0, needs)[0]
