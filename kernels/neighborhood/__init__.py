"""Neighborhood attention: every query attends to a window of keys around it, clamped at the borders of the map."""

from .api import (
    neighborhood_attention,
    neighborhood_av,
    neighborhood_bias,
    neighborhood_qk,
    packed_neighborhood_attention,
)

__all__ = [
    "neighborhood_attention",
    "neighborhood_av",
    "neighborhood_bias",
    "neighborhood_qk",
    "packed_neighborhood_attention",
]
