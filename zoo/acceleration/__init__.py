"""Conversion of live networks of other libraries into this project's, with the same weights; see `accelerate`."""

from .api import accelerate

__all__ = ["accelerate"]
