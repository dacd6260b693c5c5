"""Export of detectors: torchvision's rules in traceable operators, with outputs of fixed size."""

from .task import Detect, detect, open_with_origin

__all__ = ["Detect", "detect", "open_with_origin"]
