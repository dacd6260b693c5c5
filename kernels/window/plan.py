"""Tensors that the eager execution derives from a geometry: index lists, masks and table indices.

Shape legend: n windows, T = wh * ww tokens of a window. Windows are ordered by their class, then row-major over the
shifted map; slots are row-major in a window, and tokens row-major over the map, `row * W + column`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..cache import cached
from ..tracing import real_tensors
from .geometry import WindowAxis

# Length, window and shift. Tracers treat a plan as a constant, which requires plain arguments.
AxisArguments = tuple[int, int, int]


@dataclass(frozen=True)
class Chunk:
    """Windows that are computed together.

    Attributes:
        slots: range of the slots, counted over all windows.
        tokens: (windows * T,) token of every slot; 0 in the padding.
        padding: slots in the padding, counted from the first slot of the chunk.
        window_class: (windows,) class of every window.
        only_class: the class of all windows if they share one, else None.
    """

    slots: slice
    tokens: Tensor
    padding: Tensor
    window_class: Tensor
    only_class: int | None


@dataclass(frozen=True)
class Plan:
    """A map of one size, split into windows.

    Attributes:
        tokens: T.
        whole: all windows as one chunk.
        chunks: all windows in chunks.
        slots: n * T.
        slot_of_token: (H * W,) the slot of `whole` that holds each token.
        mask: (classes, T, T) 0 where a query attends to a key and -inf elsewhere, float32; None when every query
            attends to its whole window. Windows of one class share a mask.
        position: (T * T,) index into a flat (2wh-1, 2ww-1) table.
        is_identity: whether the map is one window in the same order, so that nothing is gathered.
    """

    tokens: int
    whole: Chunk
    chunks: tuple[Chunk, ...]
    slots: int
    slot_of_token: Tensor
    mask: Tensor | None
    position: Tensor
    is_identity: bool


@torch.compiler.assume_constant_result
def plan_of(rows: AxisArguments, columns: AxisArguments, chunk_scores: int, device: str) -> Plan:
    """Returns the plan of a map.

    Args:
        rows: length, window and shift of the row axis.
        columns: length, window and shift of the column axis.
        chunk_scores: maximum number of scores per head to compute at once, T * T per window; at least one window is
            computed.
        device: device of the plan's tensors.
    """
    return _plan(rows, columns, chunk_scores, device)


# Tracers treat a function's result as a constant only if the function itself is not a cache.
@cached
def _plan(rows: AxisArguments, columns: AxisArguments, chunk_scores: int, device: str) -> Plan:
    with real_tensors():
        return make_plan(WindowAxis(*rows), WindowAxis(*columns), chunk_scores, torch.device(device))


def make_plan(rows: WindowAxis, columns: WindowAxis, chunk_scores: int, device: torch.device) -> Plan:
    """Splits a map into windows, see `Plan`."""
    tokens = rows.window * columns.window
    row_positions, column_positions = _positions(rows), _positions(columns)
    mask, window_class = _mask(rows, columns)
    # consecutive windows in this order mostly share a mask
    order = window_class.argsort(stable=True)
    window_class = window_class[order]
    # (nh, 1, wh, 1) x (1, nw, 1, ww) -> (n * T,)
    of_rows, of_columns = row_positions[:, None, :, None], column_positions[None, :, None, :]
    token = (of_rows * columns.length + of_columns).reshape(-1, tokens)[order].flatten()
    is_padding = ((of_rows >= rows.length) | (of_columns >= columns.length)).reshape(-1, tokens)[order].flatten()
    token[is_padding] = 0
    slot_of_token = torch.empty(rows.length * columns.length, dtype=torch.long)
    slot_of_token[token[~is_padding]] = (~is_padding).nonzero().squeeze(1)

    def chunk(first: int, last: int) -> Chunk:
        slots, classes = slice(first * tokens, last * tokens), window_class[first:last]
        return Chunk(
            slots=slots,
            tokens=token[slots].to(device),
            padding=is_padding[slots].nonzero().squeeze(1).to(device),
            window_class=classes.to(device),
            only_class=int(classes[0]) if bool((classes == classes[0]).all()) else None,
        )

    windows = rows.count * columns.count
    step = max(1, chunk_scores // tokens**2)
    whole = chunk(0, windows)
    relation = _relation(rows)[:, None, :, None] * (2 * columns.window - 1) + _relation(columns)[None, :, None, :]
    return Plan(
        tokens=tokens,
        whole=whole,
        chunks=(whole,)
        if step >= windows
        else tuple(chunk(first, min(first + step, windows)) for first in range(0, windows, step)),
        slots=windows * tokens,
        slot_of_token=slot_of_token.to(device),
        mask=None if mask is None else mask.to(device),
        position=relation.flatten().to(device),
        is_identity=windows == 1 and torch.equal(token, torch.arange(rows.length * columns.length)),
    )


def _positions(axis: WindowAxis) -> Tensor:
    """Returns the position of every rank, (n, w)."""
    return torch.tensor([axis.position(rank) for rank in range(axis.padded_length)]).view(-1, axis.window)


def _relation(axis: WindowAxis) -> Tensor:
    """Returns the indices into a table of length 2w - 1, (w, w): key - query + w - 1."""
    positions = torch.arange(axis.window)
    return positions[None, :] - positions[:, None] + axis.window - 1


def _mask(rows: WindowAxis, columns: WindowAxis) -> tuple[Tensor | None, Tensor]:
    """Returns the distinct masks (classes, T, T), or None if nothing is masked, and the class of every window (n,)."""
    row_class, row_sees = _sides(rows)
    column_class, column_sees = _sides(columns)
    # (ch, 1, wh, 1, wh, 1) x (1, cw, 1, ww, 1, ww) -> (classes, T, T)
    sees = row_sees[:, None, :, None, :, None] & column_sees[None, :, None, :, None, :]
    tokens = rows.window * columns.window
    sees = sees.reshape(-1, tokens, tokens)
    window_class = (row_class[:, None] * len(column_sees) + column_class[None, :]).flatten()
    if bool(sees.all()):
        return None, window_class
    return torch.zeros(sees.shape).masked_fill_(~sees, -torch.inf), window_class


def _sides(axis: WindowAxis) -> tuple[Tensor, Tensor]:
    """Returns the class of every window of an axis (n,), and which keys each query attends to, (classes, w, w)."""
    number: dict[tuple[tuple[int, int], ...], int] = {}
    classes = []
    for window in range(axis.count):
        first = window * axis.window
        intervals = [axis.interval(first + slot) for slot in range(axis.window)]
        classes.append(number.setdefault(tuple((start - first, end - first) for start, end in intervals), len(number)))
    bounds = torch.tensor(list(number)).unsqueeze(2)
    keys = torch.arange(axis.window)
    return torch.tensor(classes), (bounds[..., 0] <= keys) & (keys < bounds[..., 1])
