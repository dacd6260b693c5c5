"""Window attention on a map of dynamic size: pads, shifts and partitions without branching on the size.

Shape legend: B batch, H W map, h heads, D E width of keys and values, n windows, w ranks of a window, of one axis; T =
wh * ww tokens of a window.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..precision import dtype_of_scores
from .geometry import WindowAxis


@dataclass(frozen=True)
class Cut:
    """An axis split into windows; its sizes may be symbols.

    Attributes:
        length: number of positions.
        count: number of windows, n.
        window: ranks of a window, w.
        shift: number of positions that move from the front to the end.
        device: device of its tensors.
    """

    length: int
    count: int
    window: int
    shift: int
    device: torch.device

    @property
    def padded(self) -> int:
        """Number of positions including the padding."""
        return self.count * self.window

    @property
    def is_shifted(self) -> bool:
        """Whether the axis is shifted, or may be."""
        return not statically_known_true(self.shift == 0)

    def rolled(self, shift: int) -> Tensor:
        """Returns the position at every index after `shift` positions move from the front to the end, (padded,)."""
        position = torch.arange(self.padded, device=self.device) + shift
        # exporters do not support the remainder of a symbol
        return torch.where(position >= self.padded, position - self.padded, position)

    def relation(self) -> Tensor:
        """Returns the indices into a table of length 2w - 1, (w, w): key - query + w - 1."""
        positions = torch.arange(self.window, device=self.device)
        return positions[None, :] - positions[:, None] + self.window - 1

    def sees(self) -> Tensor:
        """Returns whether a query and a key are on the same side of the wrap, (n, w, w)."""
        is_behind = (torch.arange(self.padded, device=self.device) >= self.padded - self.shift).unflatten(
            0, (self.count, self.window)
        )
        return is_behind.unsqueeze(2) == is_behind.unsqueeze(1)


def attention(
    q: Tensor, k: Tensor, v: Tensor, axes: tuple[WindowAxis, WindowAxis], bias: Tensor | None, scale: float
) -> Tensor:
    """softmax(q k^T * scale + bias) v within each window: (B, H, W, h, D), .. -> (B, H, W, h, E)."""
    rows, columns = (_cut(axis, q.device) for axis in axes)
    queries, keys, values = (_windows(x, rows, columns) for x in (q, k, v))
    precise = dtype_of_scores(q.dtype)
    if precise != q.dtype:
        queries, keys = queries.to(precise), keys.to(precise)
    # (B, n, h, T, T)
    scores = (queries * scale) @ keys.mT
    tokens = rows.window * columns.window
    if bias is not None:
        # (wh, 1, wh, 1) and (1, ww, 1, ww)
        place = rows.relation()[:, None, :, None] * bias.shape[2] + columns.relation()[None, :, None, :]
        scores = scores + bias.to(precise).flatten(1).index_select(1, place.flatten()).unflatten(1, (tokens, tokens))
    if rows.is_shifted or columns.is_shifted:
        # (nh, 1, wh, 1, wh, 1) and (1, nw, 1, ww, 1, ww) -> (n, 1, T, T)
        sees = rows.sees()[:, None, :, None, :, None] & columns.sees()[None, :, None, :, None, :]
        sees = sees.flatten(4, 5).flatten(2, 3).flatten(0, 1).unsqueeze(1)
        scores = scores.masked_fill(~sees, -torch.inf)
    weights = scores.softmax(-1)
    if precise != q.dtype:
        weights = weights.to(q.dtype)
    return _map(weights @ values, rows, columns)


def _cut(axis: WindowAxis, device: torch.device) -> Cut:
    # a window as long as the axis is the only window, for any length
    is_whole = statically_known_true(axis.length == axis.window)
    return Cut(axis.length, 1 if is_whole else axis.count, axis.window, axis.shift, device)


def _windows(x: Tensor, rows: Cut, columns: Cut) -> Tensor:
    """(B, H, W, h, D) -> (B, n, h, T, D), zeros in the padding."""
    x = F.pad(x, (0, 0, 0, 0, 0, columns.padded - columns.length, 0, rows.padded - rows.length))
    for axis, cut in ((1, rows), (2, columns)):
        if cut.is_shifted:
            x = x.index_select(axis, cut.rolled(cut.shift))
    x = x.unflatten(2, (columns.count, columns.window)).unflatten(1, (rows.count, rows.window))
    # (B, nh, wh, nw, ww, h, D) -> (B, nh, nw, h, wh, ww, D)
    return x.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 2)


def _map(x: Tensor, rows: Cut, columns: Cut) -> Tensor:
    """(B, n, h, T, E) -> (B, H, W, h, E)."""
    x = x.unflatten(3, (rows.window, columns.window)).unflatten(1, (rows.count, columns.count))
    # (B, nh, nw, h, wh, ww, E) -> (B, nh, wh, nw, ww, h, E)
    x = x.permute(0, 1, 4, 2, 5, 3, 6).flatten(3, 4).flatten(1, 2)
    for axis, cut in ((1, rows), (2, columns)):
        if cut.is_shifted:
            x = x.index_select(axis, cut.rolled(cut.padded - cut.shift))
    return x[:, : rows.length, : columns.length]
