"""Halo attention: the map is split into blocks, and a block's queries attend to the block and a halo around it."""

from .api import halo_attention

__all__ = ["halo_attention"]
