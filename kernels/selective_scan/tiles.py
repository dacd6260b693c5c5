"""Tiles of steps of the Triton kernels; without Triton, because shapes follow from them."""

from __future__ import annotations

# steps of a tile: every state before a tile is stored for the backward pass
TILE = 16


def tiles_of(steps: int) -> int:
    """Returns the number of tiles."""
    return -(-steps // TILE)
