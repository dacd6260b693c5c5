"""`attnzoo see`: pictures and pages of what a network attends to."""

from .scenes import Scene, open_viewer

__all__ = ["Scene", "open_viewer"]
