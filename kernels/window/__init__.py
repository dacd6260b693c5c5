"""Window attention: the map is split into windows, shifted or not, and every query attends within its window."""

from .api import packed_window_attention, window_attention

__all__ = ["packed_window_attention", "window_attention"]
