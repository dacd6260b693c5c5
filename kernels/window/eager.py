"""Fast window attention in plain torch: one gather per tensor does both the shift and the partition.

On a CPU, a few windows are computed at a time, so that copies and scores stay in cache and memory does not grow with
the map (`eager_chunks`). While a model is traced, or on another device, the whole batch is computed at once
(`eager_batch`). A map of dynamic size has no plan and is handled by `eager_dynamic`.

Shape legend: B batch, H W map, h heads, D E width of keys and values.
"""

from __future__ import annotations

import operator

import torch
from torch import Tensor

from ..saved import checked
from ..tracing import is_symbolic, is_traced
from ..transforms import is_transformed, transformable
from . import eager_batch, eager_chunks, eager_dynamic
from .geometry import WindowAxis
from .plan import Plan, plan_of


def attention(
    q: Tensor, k: Tensor, v: Tensor, axes: tuple[WindowAxis, WindowAxis], bias: Tensor | None, scale: float
) -> Tensor:
    """softmax(q k^T * scale + bias) v within each window: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    if is_symbolic([*q.shape[1:3], axes[0].shift, axes[1].shift]):
        return eager_dynamic.attention(q, k, v, axes, bias, scale)
    plan = _plan(axes, q.shape[3], q.device, eager_chunks.FORWARD_SCORES)
    if is_transformed():
        return transformable(lambda: eager_batch.attend(q, k, v, bias, scale, plan))
    if q.device.type != "cpu" or is_traced():
        return checked(eager_batch.attend(q, k, v, bias, scale, plan), q, k, v, bias)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias)):
        backward_plan = _plan(axes, q.shape[3], q.device, eager_chunks.BACKWARD_SCORES)
        return eager_chunks.Attention.apply(q, k, v, bias, scale, plan, backward_plan)
    return eager_chunks.forward(q, k, v, bias, scale, plan)


def _plan(axes: tuple[WindowAxis, WindowAxis], heads: int, device: torch.device, scores: int) -> Plan:
    """Returns the cached plan of a map. Symbolic sizes become constants, since a traced graph is for one map size."""
    rows, columns = ((operator.index(axis.length), axis.window, axis.shift) for axis in axes)
    return plan_of(rows, columns, scores // heads, str(device))
