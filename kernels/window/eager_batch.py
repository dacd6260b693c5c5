"""Window attention over a whole batch at once, with operators that every tracer, compiler and exporter supports.

Shape legend: B batch, H W map, h heads, D E width of keys and values, n windows, T tokens of a window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .plan import Plan


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, scale: float, plan: Plan) -> Tensor:
    """softmax(q k^T * scale + bias) v within each window: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    size, heads = q.shape[1:3], q.shape[3]
    mask = class_mask(plan, bias, q.dtype, heads)
    if mask is not None:
        # (classes, h, T, T) -> (1, n * h, T, T); fused kernels do not take masks of three dimensions
        mask = mask.index_select(0, plan.whole.window_class).flatten(0, 1).unsqueeze(0)
    queries, keys, values = (_take(x, plan) for x in (q, k, v))
    if torch.jit.is_tracing() and heads == 1:
        # OpenVINO takes the tokens of one head for its windows where it reads scaled_dot_product_attention
        scores = (queries * scale) @ keys.transpose(2, 3)
        out = (scores if mask is None else scores + mask).softmax(3) @ values
    else:
        out = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
    if torch.compiler.is_exporting():
        # exporters decompose the fused kernel into operators with another layout; views must fit both
        out = out.clone(memory_format=torch.contiguous_format)
    # (B, n * h, T, E) -> (B, n * T, h, E) -> (B, H, W, h, E)
    out = out.unflatten(1, (-1, heads)).transpose(2, 3).flatten(1, 2)
    return (out if plan.is_identity else out.index_select(1, plan.slot_of_token)).unflatten(1, size)


def _take(x: Tensor, plan: Plan) -> Tensor:
    """(B, H, W, h, D) -> (B, n * h, T, D), zeros in the padding."""
    x = x.flatten(1, 2)
    if not plan.is_identity:
        x = x.index_select(1, plan.whole.tokens)
    if plan.whole.padding.numel():
        x = x.index_fill(1, plan.whole.padding, 0)
    return x.unflatten(1, (-1, plan.tokens)).transpose(2, 3).flatten(1, 2)


def class_mask(plan: Plan, bias: Tensor | None, dtype: torch.dtype, heads: int) -> Tensor | None:
    """Returns the additive mask (classes, h, T, T): the bias, and -inf where a query does not attend to a key."""
    # (classes, 1, T, T)
    mask = None if plan.mask is None else plan.mask.to(dtype).unsqueeze(1)
    if bias is None:
        return None if mask is None else mask.expand(-1, heads, -1, -1)
    table = bias.to(dtype).flatten(1).index_select(1, plan.position).view(1, heads, plan.tokens, plan.tokens)
    return table if mask is None else table + mask
