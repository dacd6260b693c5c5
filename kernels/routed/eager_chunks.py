"""Routed attention on a CPU, image by image: all heads at once in forward, some heads in backward, in reused memory.

Shape legend: B batch, H W map, h heads, D E width of keys and values, P regions of R tokens, t regions on a route; N
regions of all heads of a chunk, h * P.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cache import cached
from ..precision import dtype_of_scores
from ..tracing import real_tensors
from ..transforms import differentiable_gradients, needs_differentiable_gradients
from .eager_batch import Form, attend, best_form, by_region, is_one_region, one_region, region_rows
from .geometry import Regions

# In the backward pass, elements of keys or values gathered at once, and scores computed at once, of which three arrays
# are kept: enough to hide the overhead of a call, few enough to stay in cache.
CHUNK_NUMBERS = 64 * 1024
BACKWARD_SCORES = 64 * 1024


class _Memory:
    """Named arrays that are allocated once: touching fresh memory costs more than computing in it."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._arrays: dict[str, Tensor] = {}

    def take(self, name: str, *shape: int) -> Tensor:
        """Returns the array of this name in the given shape; its earlier contents may be lost."""
        numbers = math.prod(shape)
        if name not in self._arrays or self._arrays[name].numel() < numbers:
            self._arrays[name] = self._like.new_empty(numbers)
        return self._arrays[name][:numbers].view(shape)

    def split(self, name: str, x: Tensor, regions: Regions) -> Tensor:
        """(1, H, W, h, D) -> (N, R, D)."""
        _, _, _, heads, width = x.shape
        tiles = self.take(name, heads * regions.count, regions.tokens, width)
        view = by_region(x, regions)
        tiles.view(view.shape).copy_(view)
        return tiles

    def take_regions(self, name: str, x: Tensor, rows: Tensor, form: Form) -> Tensor:
        """(N, R, D) -> (rows / t, t * R, D), the regions of some routes."""
        tiles = self.take(name, len(rows), x.shape[1] * x.shape[2])
        torch.index_select(x.flatten(1), 0, rows, out=tiles)
        return tiles.view(-1, form.routes.shape[2] * x.shape[1], x.shape[2])


def _merge(target: Tensor, tiles: Tensor, regions: Regions) -> None:
    """Writes (N, R, D) to (1, H, W, h, D)."""
    view = by_region(target, regions)
    view.copy_(tiles.view(view.shape))


def forward(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: Regions, scale: float) -> Tensor:
    """softmax(q k^T * scale) v over the regions on each query's route: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    out = v.new_empty(v.shape)
    for image, form in _images(routes, regions, q.dtype):
        # (H * W, h, .)
        queries, keys, values = (x[image].flatten(0, 2) for x in (q, k, v))
        if form.regions.count == 1:
            queries, keys, values = (x.transpose(0, 1).unsqueeze(0) for x in (queries, keys, values))
            tiles = F.scaled_dot_product_attention(queries, keys, values, attn_mask=form.mask, scale=scale)
            out[image] = tiles.transpose(1, 2).unflatten(1, regions.size)
            continue
        tokens, slots = tokens_of(regions.size, regions.split)
        routed = tokens.index_select(0, form.routes.flatten())
        queries = _take(queries, tokens)
        keys, values = (_take(x, routed.view(regions.count, -1)) for x in (keys, values))
        tiles = F.scaled_dot_product_attention(queries, keys, values, scale=scale)
        # (P, h, R, E) -> (P * R, h * E)
        rows = tiles.transpose(1, 2).reshape(-1, v.shape[3] * v.shape[4])
        torch.index_select(rows, 0, slots, out=out[image].view(rows.shape))
    return out


def _take(x: Tensor, tokens: Tensor) -> Tensor:
    """(H * W, h, D) -> (P, h, T, D) for tokens (P, T); all heads of a token are one row, which is read once."""
    rows = x.flatten(1).index_select(0, tokens.flatten())
    return rows.view(*tokens.shape, *x.shape[1:]).transpose(1, 2)


@cached
def tokens_of(size: tuple[int, int], split: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Returns each region's tokens (P, R), numbered row-major over the map, and each token's index in them (H * W,)."""
    with real_tensors():
        regions = Regions(size, split)
        positions = [[row * size[1] + column for row, column in regions.positions(i)] for i in range(regions.count)]
        tokens = torch.tensor(positions)
        return tokens, tokens.flatten().argsort()


def _chunks(
    q: Tensor, routes: Tensor, regions: Regions, dtype: torch.dtype
) -> Iterator[tuple[tuple[slice, ...], Form]]:
    """Yields the images and heads that the backward pass computes together, and the form of each."""
    every = slice(None)
    for image, form in _images(routes, regions, dtype):
        numbers = form.routes.shape[2] * regions.count * regions.tokens * q.shape[4]
        for heads in _slices(q.shape[3], CHUNK_NUMBERS // numbers):
            yield (image, every, every, heads), form


def _images(routes: Tensor, regions: Regions, dtype: torch.dtype) -> Iterator[tuple[slice, Form]]:
    """Yields the images, and the form of each."""
    every = torch.arange(regions.count)
    for image in _slices(len(routes), 1):
        chosen = routes[image]
        if chosen.shape[2] == regions.count and bool((chosen.sort(-1).values == every).all()):
            yield image, one_region(chosen, regions)
        else:
            yield image, best_form(chosen, regions, dtype)


def _slices(length: int, step: int) -> Iterator[slice]:
    """Returns consecutive slices of length `step`, at least 1."""
    step = max(1, step)
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


class Attention(torch.autograd.Function):
    """Attention that saves only its inputs and recomputes the weights in the backward pass, chunk by chunk."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: Regions, scale: float) -> Tensor:
        """Same as the function `forward`."""
        ctx.save_for_backward(q, k, v, routes)
        ctx.regions, ctx.scale = regions, scale
        return forward(q, k, v, routes, regions, scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Computes the gradients of q, k and v."""
        q, k, v, routes = ctx.saved_tensors
        if needs_differentiable_gradients(grad):
            form = best_form(routes, ctx.regions, q.dtype)
            gradients = differentiable_gradients(lambda q, k, v: attend(q, k, v, form, ctx.scale), (q, k, v), grad)
            return *gradients, None, None, None
        grads = [x.new_empty(x.shape) for x in (q, k, v)]
        precise = dtype_of_scores(q.dtype)
        memory = _Memory(q.new_empty(0, dtype=precise))
        for chunk, form in _chunks(q, routes, ctx.regions, precise):
            _backward_chunk([x[chunk] for x in (q, k, v, grad, *grads)], form, ctx.scale, memory)
        return *grads, None, None, None


def _backward_chunk(tensors: list[Tensor], form: Form, scale: float, memory: _Memory) -> None:
    """Fills dq, dk and dv; `tensors` are q, k, v, dout, dq, dk and dv in this order, all (1, H, W, h, .)."""
    names = ("q", "k", "v", "grad")
    q, k, v, grad = (memory.split(name, x, form.regions) for name, x in zip(names, tensors, strict=False))
    dq, dk, dv = (memory.take(f"d{name}", *x.shape) for name, x in (("q", q), ("k", k), ("v", v)))
    dk.zero_()
    dv.zero_()
    rows, steps = region_rows(form, tensors[0].shape[3]), form.routes.shape[2]
    keys_of_query = steps * form.regions.tokens
    for tiles in _slices(len(q), BACKWARD_SCORES // (form.regions.tokens * keys_of_query)):
        routed = rows[tiles.start * steps : tiles.stop * steps]
        keys, values = k[tiles], v[tiles]
        if not is_one_region(form):
            keys = memory.take_regions("keys", k, routed, form)
            values = memory.take_regions("values", v, routed, form)
        for part in _slices(form.regions.tokens, max(64, BACKWARD_SCORES // keys_of_query)):
            mask = None if form.mask is None else form.mask[0, :, part]
            queries, dout, dqueries = (x[tiles, part] for x in (q, grad, dq))
            dkeys, dvalues = _backward_step(queries, keys, values, dout, dqueries, mask, scale, memory)
            # rows are whole regions: adding them one by one costs no more than copying them
            dk.flatten(1).index_add_(0, routed, dkeys.view(len(routed), -1))
            dv.flatten(1).index_add_(0, routed, dvalues.view(len(routed), -1))
    for target, x in zip(tensors[4:], (dq.mul_(scale), dk.mul_(scale), dv), strict=True):
        _merge(target, x, form.regions)


def _backward_step(
    q: Tensor, k: Tensor, v: Tensor, grad: Tensor, dq: Tensor, mask: Tensor | None, scale: float, memory: _Memory
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of keys and values, and writes the gradient of queries to `dq`.

    The gradients of queries and keys are not multiplied by the scale here.
    """
    shape = len(q), q.shape[1], k.shape[1]
    weights, dscores, products = (memory.take(name, *shape) for name in ("weights", "dscores", "products"))
    if mask is None:
        torch.bmm(q, k.mT, out=weights).mul_(scale)
    else:
        torch.baddbmm(mask.expand(shape), q, k.mT, alpha=scale, out=weights)
    torch.softmax(weights, -1, out=weights)
    torch.bmm(grad, v.mT, out=dscores)
    # the gradient of a softmax: w * (dw - sum(w * dw))
    torch.mul(weights, dscores, out=products)
    dscores.sub_(products.sum(-1, keepdim=True)).mul_(weights)
    torch.bmm(dscores, k, out=dq)
    dkeys, dvalues = memory.take("dkeys", *k.shape), memory.take("dvalues", *v.shape)
    return torch.bmm(dscores.mT, q, out=dkeys), torch.bmm(weights.mT, grad, out=dvalues)
