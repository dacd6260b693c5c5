"""Detectors as files: torchvision's rules in operators that can be traced, with answers of fixed size."""

from .task import Detect, detect, open_with_origin

__all__ = ["Detect", "detect", "open_with_origin"]
