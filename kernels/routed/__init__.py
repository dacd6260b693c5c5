"""Routed attention: every query attends to all tokens of the regions that its own region is routed to."""

from .api import routed_attention

__all__ = ["routed_attention"]
