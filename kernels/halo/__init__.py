"""Halo attention: the map is cut into blocks, and the queries of a block attend to the block and a rim around it."""

from .api import halo_attention

__all__ = ["halo_attention"]
