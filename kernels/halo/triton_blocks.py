"""The pieces that the kernels of halo attention are made of: which program does what, and where tokens lie.

A program takes a tile of tokens of one block and walks the window of the block, or the blocks whose windows show its
keys. Tokens of blocks and windows are numbered row-major. Whatever exists once for rows and once for columns is a pair.

Shape legend: M tokens of a program's tile, N tokens of a chunk it walks over.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Rule(NamedTuple):
    """The geometry of an axis, at compile time; see `HaloAxis`.

    Attributes:
        block: positions of a block.
        halo: positions seen before and after it.
        queries: queries of a block.
        window: keys that a block sees.
        places: the power of two that holds a window, at least 16.
        reach: blocks on each side whose windows show keys of a block.
    """

    block: int
    halo: int
    queries: int
    window: int
    places: int
    reach: int


class Area(NamedTuple):
    """The maps that a kernel works on.

    Attributes:
        lengths: rows and columns of the map of queries.
        key_lengths: of the map of keys.
        counts: blocks down and across.
        heads: number of heads.
    """

    lengths: tuple[int, int]
    key_lengths: tuple[int, int]
    counts: tuple[int, int]
    heads: int


@triton.jit
def tile_of(program, area, TOKENS: tl.constexpr, TILE: tl.constexpr):
    """A program's image, head, block, and the numbers (M,) of its tile's tokens among TOKENS of a block.

    Heads come first, for their channels lie side by side.
    """
    head = program % area.heads
    program = program // area.heads
    tiles: tl.constexpr = (TOKENS + TILE - 1) // TILE
    tokens = program % tiles * TILE + tl.arange(0, TILE)
    program = program // tiles
    column = program % area.counts[1]
    program = program // area.counts[1]
    return program // area.counts[0], head, (program % area.counts[0], column), tokens


@triton.jit
def queries_of(block, tokens, area, RULES: tl.constexpr):
    """Places on the map of queries of a block's tokens, a pair, and whether they are there."""
    rows = block[0] * RULES[0].queries + tokens // RULES[1].queries
    columns = block[1] * RULES[1].queries + tokens % RULES[1].queries
    exist = (tokens < RULES[0].queries * RULES[1].queries) & (rows < area.lengths[0]) & (columns < area.lengths[1])
    return (rows, columns), exist


@triton.jit
def keys_of(block, numbers, area, RULES: tl.constexpr):
    """Of the numbers (N,) of a window: where in it, where on the map, and whether they are on the map.

    What is in the window but not on the map is zero, and counts; what is beyond the window does not.
    """
    window_rows = numbers // RULES[1].window
    window_columns = numbers % RULES[1].window
    rows = block[0] * RULES[0].block - RULES[0].halo + window_rows
    columns = block[1] * RULES[1].block - RULES[1].halo + window_columns
    exist = (rows >= 0) & (rows < area.key_lengths[0]) & (columns >= 0) & (columns < area.key_lengths[1])
    exist &= numbers < RULES[0].window * RULES[1].window
    return (window_rows, window_columns), (rows, columns), exist


@triton.jit
def neighbors_of(block, count, RULE: tl.constexpr):
    """First and end of the blocks of an axis whose windows may show keys of a block."""
    return tl.maximum(block - RULE.reach, 0), tl.minimum(block + RULE.reach + 1, count)


@triton.jit
def units(places, PLACES: tl.constexpr, DTYPE: tl.constexpr):
    """(N, PLACES) unit vectors of places; a product with them picks or sums what belongs to a place."""
    # by way of float32: the interpreter makes bfloat16 of nothing else
    return (places[:, None] == tl.arange(0, PLACES)[None, :]).to(tl.float32).to(DTYPE)
