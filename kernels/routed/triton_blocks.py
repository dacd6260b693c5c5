"""Building blocks of the routed attention kernels: which program computes which tile, and the positions of tokens.

A program computes a tile of tokens of one region and iterates over a list of regions. The tokens of the list are
numbered consecutively from one region to the next and read in chunks, so a chunk may hold the end of one region and
several small ones.

Shape legend: M tokens of a program's tile.
"""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


class MapShape(NamedTuple):
    """The map of a call; flat, because Triton 3.6 loses sizes of 1 in a tuple within a tuple.

    Attributes:
        rows: H.
        columns: W.
        regions_down: number of regions down.
        regions_across: number of regions across.
        region_rows: rows of a region.
        region_columns: columns of a region.
        heads: number of heads.
    """

    rows: int
    columns: int
    regions_down: int
    regions_across: int
    region_rows: int
    region_columns: int
    heads: int


@triton.jit
def tile_of(program, map_shape, TILE: tl.constexpr):
    """Returns a program's image, head and region, and the tokens (M,) of its tile.

    Heads vary fastest, because their channels are adjacent in memory.
    """
    head = program % map_shape.heads
    program = program // map_shape.heads
    tiles = tl.cdiv(map_shape.region_rows * map_shape.region_columns, TILE)
    tokens = program % tiles * TILE + tl.arange(0, TILE)
    program = program // tiles
    regions = map_shape.regions_down * map_shape.regions_across
    return program // regions, head, program % regions, tokens


@triton.jit
def positions_of(regions, tokens, map_shape):
    """Returns rows and columns of tokens on the map, a pair; each token has its own region, or all have the same."""
    rows = regions // map_shape.regions_across * map_shape.region_rows + tokens // map_shape.region_columns
    columns = regions % map_shape.regions_across * map_shape.region_columns + tokens % map_shape.region_columns
    return rows, columns


@triton.jit
def positions_of_chunk(regions, first, end, map_shape, CHUNK: tl.constexpr):
    """Returns the positions of the tokens numbered from `first` on, and whether they come before `end`.

    Args:
        regions: pointer to the list of regions.
        first: index of the chunk's first token.
        end: number of tokens in the list.
        map_shape: the map.
        CHUNK: tokens of a chunk.
    """
    numbers = first + tl.arange(0, CHUNK)
    exist = numbers < end
    tokens_of_region = map_shape.region_rows * map_shape.region_columns
    routed = tl.load(regions + numbers // tokens_of_region, mask=exist, other=0)
    # the host cannot check routes on a GPU without waiting: one out of range must not read foreign memory
    routed = tl.minimum(tl.maximum(routed, 0), map_shape.regions_down * map_shape.regions_across - 1).to(tl.int32)
    return positions_of(routed, numbers % tokens_of_region, map_shape), exist
