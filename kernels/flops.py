"""Operation counts for torch's `FlopCounterMode`, which counts only operators that it has formulas for.

Shape legend: B batch, H W map of the queries, h heads, D width of queries and keys, E width of values.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

# torch warns where Triton is missing, which only matters to those who count Triton kernels of their own
_log = logging.getLogger("torch.utils.flop_counter")
_was_disabled, _log.disabled = _log.disabled, True
from torch.utils.flop_counter import (  # noqa: E402
    flop_registry,
    register_flop_formula,
    sdpa_backward_flop,
    sdpa_flop,
)

_log.disabled = _was_disabled

Shape = Sequence[int]


def register_flops(name: str, keys: Callable[..., int]) -> None:
    """Registers formulas for `attnzoo::NAME` and `attnzoo::NAME_backward`.

    Args:
        name: name of an operator made by `define_attention`.
        keys: returns the keys of each query from the shape of the keys and the arguments of the operator after v, where
            shapes stand for tensors.
    """
    operators = torch.ops.attnzoo

    # the products of queries and keys, and of weights and values
    @register_flop_formula(getattr(operators, name))
    def _forward(*inputs: Any, out_shape: Any = None, **kwargs: Any) -> int:
        q, k, v, *rest = _with_parts(inputs)
        return 2 * _queries(q) * keys(k, *rest) * (q[4] + v[4])

    # the weights are recomputed; each of the two products has two gradients
    @register_flop_formula(getattr(operators, f"{name}_backward"))
    def _backward(dout: Shape, *inputs: Any, out_shape: Any = None, **kwargs: Any) -> int:
        q, k, v, *rest = _with_parts(inputs)
        return 2 * _queries(q) * keys(k, *rest) * (3 * q[4] + 2 * v[4])


def _with_parts(inputs: Sequence[Any]) -> Sequence[Any]:
    """Replaces the shape of a packed tensor (B, H, W, 3, h, D), if there is one, by those of its parts."""
    first, *rest = inputs
    return inputs if len(first) == 5 else [*[[*first[:3], *first[4:]]] * 3, *rest]


def _queries(q: Shape) -> int:
    """(B, H, W, h, D) -> B * H * W * h."""
    return q[0] * q[1] * q[2] * q[3]


def _register_attention_on_cpu() -> None:
    """Counts `scaled_dot_product_attention` on a CPU, which torch has no formula for."""
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if forward not in flop_registry:
        flop_registry[forward] = sdpa_flop
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    if backward not in flop_registry:
        flop_registry[backward] = sdpa_backward_flop


_register_attention_on_cpu()
