"""Peers of neighborhood attention: gather, dense, trial and FlexAttention.

Each peer is a function of (q, k, v, bias) in the layout of `attnzoo.kernels`, made for one neighborhood. Indices and
masks do not depend on the inputs and are precomputed. The bias is read from its table within the call.

Shape legend: B batch, H W map, h heads, D width, L = H * W tokens, K = kh * kw keys, n tiles, T queries of a tile,
R keys of its region, G dilation groups.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attnzoo.kernels.neighborhood.geometry import Axis

from .operators import Function

CPU = torch.device("cpu")


def gather(rows: Axis, columns: Axis) -> Function:
    """Attention on the gathered keys and values of every query, (B, h, L, K, D)."""
    row_keys, column_keys = _keys(rows), _keys(columns)
    # (H, 1, kh, 1) x (1, W, 1, kw) -> (L, K)
    tokens = (row_keys[:, None, :, None] * columns.length + column_keys[None, :, None, :]).reshape(
        rows.length * columns.length, -1
    )
    places = _table_places(_relation(rows, row_keys), _relation(columns, column_keys), columns).reshape(tokens.shape)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        size = q.shape[1:3]
        q, k, v = (_heads_first(x) for x in (q, k, v))
        scores = (q * q.shape[-1] ** -0.5).unsqueeze(-2) @ k[:, :, tokens].mT
        # (h, L, K) -> (h, L, 1, K)
        scores = scores + bias.flatten(1)[:, places].unsqueeze(2)
        return _map(scores.softmax(-1) @ v[:, :, tokens], size)

    return attend


def dense(rows: Axis, columns: Axis, device: torch.device = CPU) -> Function:
    """Full attention of all tokens, under a mask."""
    (row_exists, row_relation), (column_exists, column_relation) = _dense_axis(rows), _dense_axis(columns)
    length = rows.length * columns.length
    # (H, 1, H, 1) x (1, W, 1, W) -> (L, L)
    exists = (row_exists[:, None, :, None] & column_exists[None, :, None, :]).reshape(length, length)
    places = (_table_places(row_relation, column_relation, columns).reshape(length, length) * exists).to(device)
    hidden = ~exists.to(device)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        size = q.shape[1:3]
        q, k, v = (_heads_first(x) for x in (q, k, v))
        # (h, L, L)
        added = bias.flatten(1).index_select(1, places.flatten()).view(-1, length, length)
        added = added.masked_fill(hidden, -torch.inf)
        return _map(F.scaled_dot_product_attention(q, k, v, attn_mask=added), size)

    return attend


def flex(rows: Axis, columns: Axis, device: torch.device = CPU) -> Function:
    """Compiled FlexAttention, with the neighborhood as block mask and the bias as score_mod."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = rows.length * columns.length

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return _flex_sees(rows, columns, query, key)

    mask = create_block_mask(sees, None, None, length, length, device)

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        def add_bias(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            # for keys that are not attended the index is outside of the table
            row, column = (
                ((b // axis.dilation - a // axis.dilation) + axis.kernel - 1).clamp(0, 2 * axis.kernel - 2)
                for axis, a, b in (
                    (rows, query // columns.length, key // columns.length),
                    (columns, query % columns.length, key % columns.length),
                )
            )
            return score + bias[head, row, column]

        size = q.shape[1:3]
        q, k, v = (_heads_first(x) for x in (q, k, v))
        return _map(flex_attention(q, k, v, score_mod=add_bias, block_mask=mask), size)

    # every shape is compiled separately, and dynamo stops recompiling a function after a few times
    torch._dynamo.reset()
    return torch.compile(attend, dynamic=False)


def _flex_sees(rows: Axis, columns: Axis, query: Tensor, key: Tensor) -> Tensor:
    """Whether one token sees another, computed from their indices."""
    return _flex_sees_along(rows, query // columns.length, key // columns.length) & _flex_sees_along(
        columns, query % columns.length, key % columns.length
    )


def _flex_sees_along(axis: Axis, query: Tensor, key: Tensor) -> Tensor:
    assert axis.stride == 1, "stages have no stride"
    assert not axis.is_causal, "stages are not causal"
    group, rank = query % axis.dilation, query // axis.dilation
    group_length = (axis.length - group + axis.dilation - 1) // axis.dilation
    start = torch.minimum((rank - axis.kernel // 2).clamp(min=0), group_length - axis.kernel)
    key_rank = key // axis.dilation
    return (key % axis.dilation == group) & (key_rank >= start) & (key_rank < start + axis.kernel)


def trial(rows: Axis, columns: Axis, is_training: bool) -> Function:
    """A tiled baseline for the eager execution: large square tiles, one flat index_select for each of q, k, v."""
    tiles = [_trial_tiles(axis, is_training) for axis in (rows, columns)]
    query_tokens = _tile_tokens(tiles[0].queries, tiles[1].queries, columns.length)
    key_tokens = _tile_tokens(tiles[0].keys, tiles[1].keys, columns.length)
    inverse = query_tokens.flatten().argsort()
    # 0/1 matrices that select table entries: (Gh * nh * Th * Rh, 2kh-1), (Gw * nw * Tw * Rw, 2kw-1)
    picks = [F.one_hot(t.relation.clamp(min=0), 2 * t.axis.kernel - 1).float().flatten(0, -2) for t in tiles]
    exists = [(t.relation >= 0).flatten() for t in tiles]
    # (Gh * nh, Th, Rh, Gw * nw, Tw, Rw)
    split = (*tiles[0].relation.shape, *tiles[1].relation.shape)
    mask = torch.zeros(split).masked_fill(~(exists[0][:, None] & exists[1][None, :]).view(split), -torch.inf)
    mask = _tile_order(mask.unsqueeze(0))

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        size, heads = q.shape[1:3], q.shape[3]
        q, k, v = (_heads_first(x).contiguous() for x in (q, k, v))
        # (h, Gh * nh * Th * Rh, Gw * nw * Tw * Rw) -> (h * n, T, R)
        table = (picks[0] @ bias @ picks[1].T).unflatten(2, split[3:]).unflatten(1, split[:3])
        added = (_tile_order(table) + mask).flatten(0, 1)
        q = _take(q, query_tokens)
        k, v = (_take(x, key_tokens) for x in (k, v))
        if is_training:
            out = (torch.matmul(q * q.shape[-1] ** -0.5, k.mT) + added).softmax(-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=added)
        # (B, h * n, T, D) -> (B, h, L, D)
        out = out.unflatten(1, (heads, -1)).flatten(2, 3)
        out = out.flatten(0, 1).index_select(1, inverse).unflatten(0, (-1, heads))
        return out.transpose(1, 2).unflatten(1, size)

    return attend


class _TrialTiles:
    """Equal tiles of an axis: positions of queries (G * n, T) and keys (G * n, R), and relations (G * n, T, R)."""

    def __init__(self, axis: Axis, tile: int) -> None:
        group = axis.group_length(0)
        assert axis.length == group * axis.dilation, "trial requires dilation groups of equal length"
        assert group % tile == 0, "trial requires full tiles"
        region = min(tile + axis.kernel - 1, group)
        ranks = torch.arange(group).view(-1, tile)
        starts = (ranks[:, 0] - axis.kernel // 2).clamp(0, group - region)
        key_ranks = starts[:, None] + torch.arange(region)
        window_starts = torch.tensor([axis.window(0, rank)[0] for rank in range(group)]).view(-1, tile, 1)
        keys = key_ranks[:, None, :]
        exists = (keys >= window_starts) & (keys < window_starts + axis.kernel)
        relation = (keys - ranks[:, :, None] + axis.kernel - 1).where(exists, -1)
        groups = torch.arange(axis.dilation)[:, None, None]
        self.axis = axis
        self.queries = (groups + axis.dilation * ranks).flatten(0, 1)
        self.keys = (groups + axis.dilation * key_ranks).flatten(0, 1)
        self.relation = relation.repeat(axis.dilation, 1, 1)


def _trial_tiles(axis: Axis, is_training: bool) -> _TrialTiles:
    group = axis.group_length(0)
    if group <= 14:
        return _TrialTiles(axis, group)
    return _TrialTiles(axis, next(tile for tile in ((7, 8) if is_training else (8, 7)) if group % tile == 0))


def _tile_tokens(rows: Tensor, columns: Tensor, width: int) -> Tensor:
    """(nh, Th), (nw, Tw) -> (nh * nw, Th * Tw)."""
    tokens = rows[:, None, :, None] * width + columns[None, :, None, :]
    return tokens.flatten(2, 3).flatten(0, 1)


def _tile_order(x: Tensor) -> Tensor:
    """(h, nh, Th, Rh, nw, Tw, Rw) -> (h, nh * nw, Th * Tw, Rh * Rw)."""
    return x.permute(0, 1, 4, 2, 5, 3, 6).flatten(5, 6).flatten(3, 4).flatten(1, 2)


def _take(x: Tensor, tokens: Tensor) -> Tensor:
    """(B, h, L, D) -> (B, h * n, slots, D)."""
    # B and h flattened into one axis: index_select is far slower with two axes before the indexed one
    taken = x.flatten(0, 1).index_select(1, tokens.flatten())
    return taken.view(x.shape[0], x.shape[1] * tokens.shape[0], tokens.shape[1], x.shape[3])


def _heads_first(x: Tensor) -> Tensor:
    """(B, H, W, h, D) -> (B, h, L, D)."""
    return x.flatten(1, 2).transpose(1, 2)


def _map(x: Tensor, size: torch.Size) -> Tensor:
    """(B, h, L, D) or (B, h, L, 1, D) -> (B, H, W, h, D)."""
    x = x.squeeze(3) if x.ndim == 5 else x
    return x.transpose(1, 2).unflatten(1, size)


def _keys(axis: Axis) -> Tensor:
    """Positions (L, k) of every query's keys."""
    return torch.tensor([axis.neighbors(position) for position in range(axis.length)])


def _relation(axis: Axis, keys: Tensor) -> Tensor:
    """Indices of the keys (L, .) in a table of length 2k - 1."""
    return (keys - torch.arange(axis.length)[:, None]).div(axis.dilation, rounding_mode="floor") + axis.kernel - 1


def _table_places(rows: Tensor, columns: Tensor, axis: Axis) -> Tensor:
    """(H, a), (W, b) -> (H, W, a, b), indices in the flat table."""
    return rows[:, None, :, None] * (2 * axis.kernel - 1) + columns[None, :, None, :]


def _dense_axis(axis: Axis) -> tuple[Tensor, Tensor]:
    """Whether each query sees each key, (L, L), and the index in the table if it does."""
    exists = torch.zeros(axis.length, axis.length, dtype=torch.bool).scatter_(1, _keys(axis), True)
    return exists, _relation(axis, torch.arange(axis.length).expand(axis.length, -1)) * exists
