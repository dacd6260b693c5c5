"""Window attention: the map is split into windows, shifted or not, and every query attends within its window."""

from .api import window_attention

__all__ = ["window_attention"]
