"""Kernels of the selective scan: a program takes some channels of a head and goes through the steps, tile by tile.

Inside of a tile all states are computed at once, by an associative scan. The forward pass stores the state before
every tile. The backward pass goes through the tiles in reverse, with a second scan for the gradients of the states.
Sums over channels or images are written in parts, one for each program, so there are no atomic additions.

Shape legend: T steps of a tile, E channels of a program, N numbers of the state of a channel.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ..triton_math import LOG2_E


class Sizes(NamedTuple):
    """Sizes of a call.

    Attributes:
        steps: L.
        heads: heads h.
        width: channels of a head.
        of_a: numbers between the heads of A; 0 where they share it.
        of_d: numbers between the heads of D; 0 where they share it.
    """

    steps: int
    heads: int
    width: int
    of_a: int
    of_d: int


@triton.jit
def _follow(decay, added, later_decay, later_added):
    """Joins two intervals of steps: what is left of the state before them, and what they add to it."""
    return decay * later_decay, later_decay * added + later_added


@triton.jit
def _place(sizes, BLOCK: tl.constexpr):
    """Returns the image, the head, the number of the program's channels and the channels."""
    blocks = tl.cdiv(sizes.width, BLOCK)
    number = tl.program_id(0) % blocks
    sequence = tl.program_id(0) // blocks
    image = (sequence // sizes.heads).to(tl.int64)
    return image, sequence % sizes.heads, number, number * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _pointers(tokens, image, head, steps, channels):
    """Returns pointers to channels of steps or tokens, (T, E)."""
    base = tokens.data + image * tokens.image_stride + head.to(tl.int64) * tokens.head_stride
    return base + steps.to(tl.int64)[:, None] * tokens.row_stride + channels[None, :]


@triton.jit
def _load(tokens, image, head, steps, exist, channels, mask):
    """Loads channels of steps or tokens in float32, (T, E); zeros where there are none."""
    pointers = _pointers(tokens, image, head, steps, channels)
    return tl.load(pointers, mask=exist[:, None] & mask[None, :], other=0.0).to(tl.float32)


@triton.jit
def _tokens_of(routes, sizes, head, steps, exist):
    """Returns the tokens that steps visit."""
    if routes is None:
        return steps
    return tl.load(routes + head * sizes.steps + steps, mask=exist, other=0).to(tl.int32)


@triton.jit
def _weights(D, sizes, head, channels):
    """Loads D of some channels, (E,)."""
    return tl.load(D + head * sizes.of_d + channels, mask=channels < sizes.width, other=0.0).to(tl.float32)


@triton.jit
def _row(x, row, TILE: tl.constexpr):
    """(T, E, N) -> (E, N), one of the steps."""
    return tl.sum(tl.where((tl.arange(0, TILE) == row)[:, None, None], x, 0.0), 0)


@triton.jit
def scan_forward_kernel(
    u,
    delta,
    A,
    B,
    C,
    D,
    routes,
    out,
    states,
    sizes,
    STATE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Computes the outputs, and the state before every tile."""
    image, head, _, channels = _place(sizes, BLOCK)
    exists = channels < sizes.width
    numbers = tl.arange(0, STATE.block)
    counts = numbers < STATE.channels
    entries = channels[:, None] * STATE.channels + numbers[None, :]
    mask = exists[:, None] & counts[None, :]
    rates = tl.load(A + head * sizes.of_a + entries, mask=mask, other=0.0).to(tl.float32) * LOG2_E
    tiles = tl.cdiv(sizes.steps, TILE)
    sequence = image * sizes.heads + head
    state = tl.zeros([BLOCK, STATE.block], tl.float32)
    for first in range(0, sizes.steps, TILE):
        kept = states + (sequence * tiles + first // TILE) * sizes.width * STATE.channels
        tl.store(kept + entries, state, mask=mask)
        steps = first + tl.arange(0, TILE)
        exist = steps < sizes.steps
        tokens = _tokens_of(routes, sizes, head, steps, exist)
        values = _load(u, image, head, tokens, exist, channels, exists)
        # a step that does not exist has a size of zero, and leaves the state as it is
        durations = _load(delta, image, head, steps, exist, channels, exists)
        inputs = _load(B, image, head, steps, exist, numbers, counts)
        outputs = _load(C, image, head, steps, exist, numbers, counts)
        decay = tl.exp2(durations[:, :, None] * rates[None, :, :])
        added = (durations * values)[:, :, None] * inputs[:, None, :]
        left, every = tl.associative_scan((decay, added), 0, _follow)
        every += left * state[None, :, :]
        results = tl.sum(every * outputs[:, None, :], 2)
        if D is not None:
            results += values * _weights(D, sizes, head, channels)[None, :]
        pointers = _pointers(out, image, head, tokens, channels)
        tl.store(pointers, results.to(out.data.dtype.element_ty), mask=exist[:, None] & exists[None, :])
        state = _row(every, TILE - 1, TILE)


@triton.jit
def scan_backward_kernel(
    u,
    delta,
    A,
    B,
    C,
    D,
    routes,
    dout,
    states,
    du,
    ddelta,
    dA,
    dB,
    dC,
    dD,
    sizes,
    STATE: tl.constexpr,
    TILE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Computes the gradients of all tensors: of every head, those of A and D per image, of B and C per program."""
    image, head, number, channels = _place(sizes, BLOCK)
    exists = channels < sizes.width
    numbers = tl.arange(0, STATE.block)
    counts = numbers < STATE.channels
    entries = channels[:, None] * STATE.channels + numbers[None, :]
    mask = exists[:, None] & counts[None, :]
    rates = tl.load(A + head * sizes.of_a + entries, mask=mask, other=0.0).to(tl.float32)
    tiles = tl.cdiv(sizes.steps, TILE)
    sequence = image * sizes.heads + head
    # (program, image, step, head, N)
    images = tl.num_programs(0) // (sizes.heads * tl.cdiv(sizes.width, BLOCK))
    part = (number * images + image) * sizes.steps
    carried = tl.zeros([BLOCK, STATE.block], tl.float32)
    of_rates = tl.zeros([BLOCK, STATE.block], tl.float32)
    of_shortcut = tl.zeros([BLOCK], tl.float32)
    for tile in range(0, tiles):
        first = (tiles - 1 - tile) * TILE
        steps = first + tl.arange(0, TILE)
        exist = steps < sizes.steps
        tokens = _tokens_of(routes, sizes, head, steps, exist)
        values = _load(u, image, head, tokens, exist, channels, exists)
        durations = _load(delta, image, head, steps, exist, channels, exists)
        inputs = _load(B, image, head, steps, exist, numbers, counts)
        outputs = _load(C, image, head, steps, exist, numbers, counts)
        gradients = _load(dout, image, head, tokens, exist, channels, exists)
        kept = states + (sequence * tiles + tiles - 1 - tile) * sizes.width * STATE.channels
        state = tl.load(kept + entries, mask=mask, other=0.0)
        decay = tl.exp2(durations[:, :, None] * (rates * LOG2_E)[None, :, :])
        added = (durations * values)[:, :, None] * inputs[:, None, :]
        left, every = tl.associative_scan((decay, added), 0, _follow)
        every += left * state[None, :, :]

        # the gradient of a state comes from its output and from the next state
        following = _load(delta, image, head, steps + 1, steps + 1 < sizes.steps, channels, exists)
        decay = tl.exp2(following[:, :, None] * (rates * LOG2_E)[None, :, :])
        given = gradients[:, :, None] * outputs[:, None, :]
        left, given = tl.associative_scan((decay, given), 0, _follow, reverse=True)
        given += left * carried[None, :, :]
        carried = _row(given, 0, TILE)

        row = (part + steps.to(tl.int64)) * sizes.heads + head
        of_step = row[:, None] * STATE.channels + numbers[None, :]
        both = exist[:, None] & counts[None, :]
        tl.store(dB + of_step, tl.sum(given * (durations * values)[:, :, None], 1), mask=both)
        tl.store(dC + of_step, tl.sum(every * gradients[:, :, None], 1), mask=both)
        # what is left of the state before a step, times the gradient: that of delta * A
        of_exponents = given * (every - added)
        of_rates += tl.sum(of_exponents * durations[:, :, None], 0)
        of_products = tl.sum(given * inputs[:, None, :], 2)
        of_durations = tl.sum(of_exponents * rates[None, :, :], 2) + of_products * values
        of_values = of_products * durations
        if D is not None:
            of_values += gradients * _weights(D, sizes, head, channels)[None, :]
            of_shortcut += tl.sum(gradients * values, 0)
        both = exist[:, None] & exists[None, :]
        pointers = _pointers(du, image, head, tokens, channels)
        tl.store(pointers, of_values.to(du.data.dtype.element_ty), mask=both)
        pointers = _pointers(ddelta, image, head, steps, channels)
        tl.store(pointers, of_durations.to(ddelta.data.dtype.element_ty), mask=both)
    tl.store(dA + sequence * sizes.width * STATE.channels + entries, of_rates, mask=mask)
    if D is not None:
        tl.store(dD + sequence * sizes.width + channels, of_shortcut, mask=exists)
