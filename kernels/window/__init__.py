"""Window attention: the map is cut into windows, shifted or not, and every query attends to its own window."""

from .api import window_attention

__all__ = ["window_attention"]
