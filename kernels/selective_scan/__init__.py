"""Selective scan: a linear system along routes over the tokens, whose parameters follow the tokens."""

from .api import selective_scan

__all__ = ["selective_scan"]
