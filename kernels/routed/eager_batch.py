"""Routed attention over a whole batch at once, with operators that every tracer, compiler and exporter supports.

Shape legend: B batch, H W map, h heads, D E width of keys and values, P regions of R tokens, Ph Pw of them down and
across, t regions on a route.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tracing import is_dynamic
from .geometry import Regions

# tokens of the largest map under a mask, whose size is the square of that for every image
_LARGEST_MASKED_MAP = 1024


class Form(NamedTuple):
    """How attention is computed: over routed regions, or with the map as one region that attends to itself.

    Attributes:
        routes: (B, P, t), int64.
        regions: the regions that `routes` refers to.
        mask: additive mask (B, 1, H * W, H * W) for one region, or None.
    """

    routes: Tensor
    regions: Regions
    mask: Tensor | None


def is_one_region(form: Form) -> bool:
    """Returns whether there is nothing to copy: one region that is routed to itself.

    This is a function because the compiler of torch 2.8 does not support properties of named tuples.
    """
    return form.regions.count == 1 and form.routes.shape[2] == 1


def best_form(routes: Tensor, regions: Regions, dtype: torch.dtype) -> Form:
    """Returns the faster form; the mask of the one-region form counts how often a query's route contains a key."""
    tokens = regions.count * regions.tokens
    if is_dynamic([tokens]):
        return Form(routes, regions, None)
    # a product of small matrices costs about as much as if a region had 16 more tokens
    if tokens > _LARGEST_MASKED_MAP or tokens > routes.shape[2] * (regions.tokens + 16):
        return Form(routes, regions, None)
    return one_region(routes, regions, _mask(routes, regions, dtype))


def one_region(routes: Tensor, regions: Regions, mask: Tensor | None = None) -> Form:
    """Returns the form in which every token attends to every other, except where it is masked."""
    return Form(routes.new_zeros(routes.shape[0], 1, 1), Regions(regions.size, (1, 1)), mask)


def _mask(routes: Tensor, regions: Regions, dtype: torch.dtype) -> Tensor:
    rows, columns = (torch.arange(length, device=routes.device) for length in regions.size)
    # (H, 1) + (1, W) -> (H * W,)
    region = (rows // regions.region_size[0] * regions.split[1])[:, None] + columns // regions.region_size[1]
    region = region.flatten()
    precise = torch.promote_types(dtype, torch.float32)
    counts = torch.zeros(routes.shape[0], regions.count, regions.count, dtype=precise, device=routes.device)
    counts = counts.scatter_add(2, routes, torch.ones_like(routes, dtype=precise))
    return counts.log().to(dtype).index_select(1, region).index_select(2, region).unsqueeze(1)


def attend(q: Tensor, k: Tensor, v: Tensor, form: Form, scale: float) -> Tensor:
    """softmax(q k^T * scale) v over the regions on each query's route: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    rows = region_rows(form, q.shape[3])
    queries, keys, values = (_split(x, form.regions) for x in (q, k, v))
    keys, values = (_take_regions(x, rows, form) for x in (keys, values))
    # queries (B, h * P, R, D), keys and values (B, h * P, t * R, .)
    queries, keys, values = (x.unflatten(0, (q.shape[0], -1)) for x in (queries, keys, values))
    out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=form.mask, scale=scale)
    if torch.compiler.is_exporting():
        # exporters decompose the fused kernel into operators with another layout; views must fit both
        out = out.clone(memory_format=torch.contiguous_format)
    return _merge(out.flatten(0, 1), form.regions, q.shape[3])


def region_rows(form: Form, heads: int) -> Tensor:
    """Returns the row, over all images, heads and regions, of each step of each route, (B * h * P * t,)."""
    first = torch.arange(form.routes.shape[0] * heads, device=form.routes.device) * form.regions.count
    # (B, h, 1) + (B, 1, P * t)
    return (first.view(-1, heads, 1) + form.routes.flatten(1).unsqueeze(1)).flatten()


def by_region(x: Tensor, regions: Regions) -> Tensor:
    """(B, H, W, h, D) -> (B, h, Ph, Pw, rh, rw, D), a view."""
    # (B, Ph, rh, Pw, rw, h, D)
    x = x.unflatten(2, (regions.split[1], -1)).unflatten(1, (regions.split[0], -1))
    return x.permute(0, 5, 1, 3, 2, 4, 6)


def _split(x: Tensor, regions: Regions) -> Tensor:
    """(B, H, W, h, D) -> (B * h * P, R, D), contiguous."""
    return by_region(x, regions).contiguous().flatten(4, 5).flatten(0, 3)


def _take_regions(x: Tensor, rows: Tensor, form: Form) -> Tensor:
    """(B * h * P, R, D) -> (B * h * P, t * R, D)."""
    if is_one_region(form):
        return x
    # rows are whole regions, so that few large blocks are copied
    return x.flatten(1).index_select(0, rows).view(-1, form.routes.shape[2] * x.shape[1], x.shape[2])


def _merge(x: Tensor, regions: Regions, heads: int) -> Tensor:
    """(B * h * P, R, D) -> (B, H, W, h, D)."""
    # (B, h, Ph, Pw, rh, rw, D) -> (B, Ph, rh, Pw, rw, h, D)
    x = x.unflatten(1, regions.region_size).unflatten(0, (-1, heads, *regions.split)).permute(0, 2, 4, 3, 5, 1, 6)
    return x.flatten(3, 4).flatten(1, 2)
