"""Fast neighborhood attention in plain torch: tiles of queries against small regions of keys.

Three things make it fast on a CPU. Tiles are small (4x4 queries attend to 10x10 keys when the kernel is 7x7), so few
scores are computed and then masked. Keys are copied once per column of tiles into a strip; the regions along the strip
overlap in memory and are never copied. Images are computed one by one, so that everything stays in cache and memory
does not grow with the batch (`eager_chunks`). While a model is traced, on another device, or where one tile is the map,
the whole batch is computed at once (`eager_batch`).

Shape legend: B batch, H W map, h heads, D E width of keys and values, k = kh * kw keys, n tiles, T queries of a tile, R
keys of its region.
"""

from __future__ import annotations

import operator
from functools import partial

import torch
from torch import Tensor

from ..saved import checked
from ..tracing import is_traced
from ..transforms import is_transformed, transformable
from . import eager_batch, eager_chunks
from .geometry import Axis
from .plan import AxisArguments, Plan, best_plan
from .windows import bias_on_map, exists_on_map, windows


def attention(q: Tensor, k: Tensor, v: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """softmax(q k^T * scale + bias) v over each query's neighborhood: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    if is_transformed():
        return transformable(lambda: eager_batch.attend(q, k, v, bias, scale, _whole(axes, q)))
    if q.device.type != "cpu" or is_traced():
        return checked(eager_batch.attend(q, k, v, bias, scale, _whole(axes, q)), q, k, v, bias)
    plans = partial(_plan, axes, q.shape[3], q.device)
    plan = plans(eager_chunks.FORWARD_SCORES)
    if plan.is_identity:
        return checked(eager_batch.attend(q, k, v, bias, scale, plan), q, k, v, bias)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (q, k, v, bias)):
        return eager_chunks.Attention.apply(q, k, v, bias, scale, plans)
    return eager_chunks.forward(q, k, v, bias, scale, plan)


def qk(q: Tensor, k: Tensor, axes: tuple[Axis, Axis], bias: Tensor | None, scale: float) -> Tensor:
    """Scores of each query with its keys, row-major over the window: (B, H, W, h, k); -inf where there is no key."""
    plan, places = _whole(axes, q), windows(*_arguments(axes), str(q.device))
    size, heads = q.shape[1:3], q.shape[3]
    scores = eager_batch.take_queries(q * scale, plan) @ eager_batch.take_keys(k, plan).transpose(2, 3)
    # (classes, T, k) -> (B, h * n, T, k): selects the window's scores from its region's
    slots = places.slots[plan.whole.tile_class].repeat(heads, 1, 1).expand(q.shape[0], -1, -1, -1)
    scores = eager_batch.untile(scores.gather(-1, slots), plan, heads, size)
    if bias is not None:
        scores = scores + bias_on_map(bias.to(q.dtype), places, size)
    exists = exists_on_map(places)
    if exists is not None:
        scores = scores.masked_fill(~exists, -torch.inf)
    return checked(scores, q, k, bias)


def av(weights: Tensor, v: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
    """Weighted sum of each query's values: (B, H, W, h, k), (B, H, W, h, E) -> (B, H, W, h, E)."""
    plan, places = _whole(axes, v), windows(*_arguments(axes), str(v.device))
    size, heads = v.shape[1:3], v.shape[3]
    tiles = eager_batch.take_queries(weights, plan)
    slots = places.slots[plan.whole.tile_class].repeat(heads, 1, 1).expand(v.shape[0], -1, -1, -1)
    spread = tiles.new_zeros(*tiles.shape[:-1], plan.keys)
    if places.exists is None:
        spread = spread.scatter(-1, slots, tiles)
    else:
        # entries without a key all point at slot 0: add zero there
        exists = places.exists[plan.whole.tile_class].repeat(heads, 1, 1)
        spread = spread.scatter_add(-1, slots, tiles.masked_fill(~exists, 0))
    out = eager_batch.untile(spread @ eager_batch.take_keys(v, plan), plan, heads, size)
    return checked(out, weights, v)


def _plan(axes: tuple[Axis, Axis], heads: int, device: torch.device, scores: int | None) -> Plan:
    """Returns the cached plan of a neighborhood, in chunks of at most `scores` scores over all heads, or in one chunk.

    Symbolic sizes become constants: a traced graph is for one map size.
    """
    return best_plan(*_arguments(axes), None if scores is None else scores // heads, str(device))


def _whole(axes: tuple[Axis, Axis], x: Tensor) -> Plan:
    return _plan(axes, 1, x.device, None)


def _arguments(axes: tuple[Axis, Axis]) -> tuple[AxisArguments, AxisArguments]:
    rows, columns = (
        (operator.index(axis.length), axis.kernel, axis.dilation, axis.stride, axis.is_causal) for axis in axes
    )
    return rows, columns
