"""Conversion to lower precision, fp16 or int8 with calibration images, and its difference to float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .calibration import batches_of, read_calibration
from .fidelity import Fidelity, answers_of, compare
from .fp16 import to_half
from .int8 import to_int8

# batch size of a file without a dynamic batch
_AT_ONCE = 2

__all__ = [
    "Fidelity",
    "answers_of",
    "batches_of",
    "compare",
    "convert",
    "read_calibration",
]


def convert(
    proto: Any, precision: str, cases: Sequence[Tensor], calibration: Sequence[Tensor], least_agreement: float
) -> tuple[Any, tuple[str, ...]]:
    """Converts a graph to lower precision.

    Args:
        proto: a `ModelProto` in float32; it is not modified.
        precision: "fp16" or "int8".
        cases: batches of images (B, C, H, W) that the graph takes.
        calibration: batches of calibration images (B, C, H, W); required for int8.
        least_agreement: share of calibration images whose top class must be the same as in float32.

    Returns:
        The new `ModelProto`, and the names of layers and types of operators that stay in float32.

    Raises:
        ExportError: the graph cannot be converted.
    """
    if precision == "fp16":
        # small batches, because all maps of a batch are held in memory at once
        return to_half(proto, [part for images in (*cases, *calibration) for part in images.split(_AT_ONCE)])
    return to_int8(proto, calibration, least_agreement)
