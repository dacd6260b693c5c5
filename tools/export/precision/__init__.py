"""Files of lower precision: fp16, and int8 with calibration images, and how far they are from float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from .calibration import batches_of, read_calibration
from .fidelity import Fidelity, answers_of, compare
from .fp16 import to_half
from .int8 import to_int8

# a file of a fixed batch takes as many
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
    """A graph in another precision.

    Args:
        proto: a `ModelProto` in float32; it stays as it is.
        precision: "fp16" or "int8".
        cases: batches of images (B, C, H, W) that the graph takes.
        calibration: the same, of the pictures that the model is for; int8 needs some.
        least_agreement: share of calibration images whose class is to be that of float32.

    Returns:
        The new `ModelProto`, and what stays in float32: names of layers, and types of operators.

    Raises:
        ExportError: the graph has no such form.
    """
    if precision == "fp16":
        # all maps of a batch are held at once
        return to_half(proto, [part for images in (*cases, *calibration) for part in images.split(_AT_ONCE)])
    return to_int8(proto, calibration, least_agreement)
