"""The pieces that the kernels of routed attention are made of: which program does what, and where tokens lie.

A program takes a tile of tokens of one region and walks a list of regions. The tokens of the list are numbered on, from
one region to the next, and taken in chunks, so that a chunk may hold the end of one region and several small ones.

Shape legend: M tokens of a program's tile.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class Area(NamedTuple):
    """The map that a kernel works on.

    Attributes:
        lengths: H and W.
        split: regions down and across.
        region: rows and columns of a region.
        heads: number of heads.
    """

    lengths: tuple[int, int]
    split: tuple[int, int]
    region: tuple[int, int]
    heads: int


@triton.jit
def tile_of(program, area, TILE: tl.constexpr):
    """A program's image, head, region, and the tokens (M,) of its tile.

    Heads come first, for their channels lie side by side.
    """
    head = program % area.heads
    program = program // area.heads
    tiles = tl.cdiv(area.region[0] * area.region[1], TILE)
    tokens = program % tiles * TILE + tl.arange(0, TILE)
    program = program // tiles
    regions = area.split[0] * area.split[1]
    return program // regions, head, program % regions, tokens


@triton.jit
def places_of(regions, tokens, area):
    """Rows and columns of tokens on the map, a pair, each in its region or all in one."""
    rows = regions // area.split[1] * area.region[0] + tokens // area.region[1]
    columns = regions % area.split[1] * area.region[1] + tokens % area.region[1]
    return rows, columns


@triton.jit
def places_of_chunk(regions, first, end, area, CHUNK: tl.constexpr):
    """Places of the tokens numbered from `first` on, and whether they come before `end`.

    Args:
        regions: pointer to the list of regions.
        first: number of the chunk's first token.
        end: number of tokens in the list.
        area: the map.
        CHUNK: tokens of a chunk.
    """
    numbers = first + tl.arange(0, CHUNK)
    exist = numbers < end
    tokens_of_region = area.region[0] * area.region[1]
    routed = tl.load(regions + numbers // tokens_of_region, mask=exist, other=0)
    return places_of(routed, numbers % tokens_of_region, area), exist
