"""Peers of window attention: scaled_dot_product_attention on windows, timm's block, and FlexAttention.

Each peer is a function of packed q, k, v (B, H, W, 3, h, D) and the bias table, made for one shape. Indices and masks
do not depend on the inputs and are precomputed.

Shape legend: B batch, H W map, h heads, D width, n windows of an image, T = w * w tokens of a window.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .operators import Function, Peer

if TYPE_CHECKING:
    from .window import WindowShape


class Partition:
    """Window partition, its inverse and the shift mask, for maps that the window divides."""

    def __init__(self, shape: WindowShape, device: torch.device) -> None:
        self.size, self.window, self.shift = shape.size, shape.window, shape.shift
        assert all(length % self.window == 0 for length in self.size), "stages are padded to whole windows"
        rows, columns = (self._axis_labels(length) for length in self.size)
        # (H, W): tokens that were contiguous before the shift have the same label
        labels = (2 * rows[:, None] + columns[None, :]).to(device)
        # (n, T)
        labels = self._windows(labels[None, :, :, None, None])[:, 0, :, 0]
        # (n, 1, T, T)
        self.hidden = (labels[:, :, None] != labels[:, None, :]).unsqueeze(1)
        ranks = torch.arange(self.window, device=device)
        relation = ranks[None, :] - ranks[:, None] + self.window - 1
        # (w, 1, w, 1) x (1, w, 1, w) -> (T * T): index in the table of each pair of a query and a key
        places = relation[:, None, :, None] * (2 * self.window - 1) + relation[None, :, None, :]
        self.places = places.reshape(-1)

    def split(self, x: Tensor) -> Tensor:
        """(B, H, W, h, D) -> (B * n, h, T, D)."""
        return self._windows(x.roll((-self.shift, -self.shift), (1, 2)) if self.shift else x)

    def join(self, x: Tensor) -> Tensor:
        """(B * n, h, T, D) -> (B, H, W, h, D)."""
        height, width = (length // self.window for length in self.size)
        x = x.unflatten(2, (self.window, self.window)).unflatten(0, (-1, height, width))
        # (B, nH, nW, h, w, w, D) -> (B, nH, w, nW, w, h, D) -> (B, H, W, h, D)
        x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
        return x.roll((self.shift, self.shift), (1, 2)) if self.shift else x

    def added(self, bias: Tensor) -> Tensor:
        """Bias and mask to add to the scores: (h, 2w-1, 2w-1) -> (n, h, T, T), or (1, h, T, T) without a shift."""
        tokens = self.window**2
        table = bias.flatten(1).index_select(1, self.places).view(1, -1, tokens, tokens)
        return table.masked_fill(self.hidden, -torch.inf) if self.shift else table

    def attend(self, q: Tensor, k: Tensor, v: Tensor, added: Tensor) -> Tensor:
        """Attention within windows: q, k, v (B * n, h, T, D) -> (B * n, h, T, D)."""
        count = added.shape[0]
        # windows are merged with heads, so that one mask is broadcast to all images without a copy
        q, k, v = (x.unflatten(0, (-1, count)).flatten(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=added.flatten(0, 1).unsqueeze(0))
        return out.unflatten(1, (count, -1)).flatten(0, 1)

    def _windows(self, x: Tensor) -> Tensor:
        x = x.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        # (B, nH, w, nW, w, h, D) -> (B, nH, nW, h, w, w, D) -> (B * n, h, T, D)
        return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(0, 2)

    def _axis_labels(self, length: int) -> Tensor:
        """1 for positions after the shift that were wrapped from the other end, else 0."""
        return (torch.arange(length) >= length - self.shift).long()


def sdpa(shape: WindowShape, device: torch.device) -> Function:
    """Partition, scaled_dot_product_attention under bias and mask, and the inverse partition."""
    windows = Partition(shape, device)

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        q, k, v = (windows.split(x) for x in qkv.unbind(3))
        return windows.join(windows.attend(q, k, v, windows.added(bias)))

    return attend


def sdpa_without_copies(shape: WindowShape, device: torch.device) -> Peer:
    """The attention of `sdpa`, without its copies."""
    windows = Partition(shape, device)

    def prepare(inputs: Sequence[Tensor]) -> list[Tensor]:
        qkv, bias = (x.detach() for x in inputs)
        maps = [windows.split(x).contiguous().requires_grad_() for x in qkv.unbind(3)]
        return [*maps, windows.added(bias)]

    return Peer(lambda: windows.attend, prepare, windows.join)


def flex(shape: WindowShape, device: torch.device) -> Function:
    """Compiled FlexAttention over the whole map, with windows and shift as block mask and the bias as score_mod."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    (rows, columns), window, shift = shape.size, shape.window, shape.shift

    def sees_along(length: int, query: Tensor, key: Tensor) -> Tensor:
        query, key = (query - shift) % length, (key - shift) % length
        same_side = (query >= length - shift) == (key >= length - shift)
        return (query // window == key // window) & same_side

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees_along(rows, query // columns, key // columns) & sees_along(columns, query % columns, key % columns)

    def place(length: int, query: Tensor, key: Tensor) -> Tensor:
        # for keys that are not attended the index is outside of the table
        distance = (key - shift) % length - (query - shift) % length
        return (distance + window - 1).clamp(0, 2 * window - 2)

    mask = create_block_mask(sees, None, None, rows * columns, rows * columns, device)

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        def add_bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            row, column = place(rows, query // columns, key // columns), place(columns, query % columns, key % columns)
            return score + bias[head, row, column]

        # (B, H, W, h, D) -> (B, h, L, D)
        q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in qkv.unbind(3))
        out = flex_attention(q, k, v, score_mod=add_bias, block_mask=mask)
        return out.transpose(1, 2).unflatten(1, (rows, columns))

    # every shape is compiled separately, and dynamo stops recompiling a function after a few times
    torch._dynamo.reset()
    return torch.compile(attend, dynamic=False)


class FreeProjection(torch.autograd.Function):
    """Replaces the projection of x: returns a precomputed one, and in the backward pass x as its own gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, projected: Tensor) -> Tensor:
        """(B * n, T, C), (B * n, T, 3 * C) -> (B * n, T, 3 * C)."""
        ctx.save_for_backward(x)
        return projected.view_as(projected)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Returns x as a placeholder for its gradient, and the gradient of the precomputed projection."""
        return ctx.saved_tensors[0], gradients[0]


def timm_block(shape: WindowShape, device: torch.device) -> Peer:
    """The attention of timm's SwinTransformerBlock, with its projections replaced by identities."""
    from timm.models.swin_transformer import SwinTransformerBlock, window_partition

    channels, window, shift = shape.heads * shape.width, (shape.window, shape.window), shape.shift
    block = SwinTransformerBlock(channels, shape.size, shape.heads, window_size=window, shift_size=shift).to(device)
    attention = block.attn
    # timm fuses its windows only when asked to
    attention.fused_attn = True
    attention.qkv, attention.proj = torch.nn.Identity(), torch.nn.Identity()
    del attention.relative_position_bias_table

    def attend(qkv: Tensor, table: Tensor, x: Tensor) -> Tensor:
        attention.qkv.forward = lambda windows: FreeProjection.apply(windows, qkv)
        attention.relative_position_bias_table = table
        return block._attn(x).unflatten(-1, (shape.heads, shape.width))

    def prepare(inputs: Sequence[Tensor]) -> list[Tensor]:
        qkv, bias = (x.detach() for x in inputs)
        rolled = qkv.flatten(3).roll((-shift, -shift), (1, 2))
        windows = window_partition(rolled, window).flatten(1, 2)
        # timm's table is (entries, heads), indexed by query - key
        table = bias.flatten(1).flip(1).T.contiguous()
        x = torch.randn(*qkv.shape[:3], channels, dtype=qkv.dtype, device=device)
        return [x.requires_grad_() for x in (windows, table, x)]

    return Peer(lambda: attend, prepare, lambda out: out)
