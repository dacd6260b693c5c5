"""Bandwidth and matrix rate of a card, measured or from its data sheet, and the floor that they give."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import NamedTuple

import torch

from attnzoo.tools.timing import Meter, summary

from .operators import Work


class Roof(NamedTuple):
    """The two rates that no execution exceeds.

    Attributes:
        bytes_per_second: bandwidth of a copy, bytes read and written.
        flops: floating-point operations per second of matrix products by dtype; a multiply-add counts as two.
        source: origin of the numbers.
    """

    bytes_per_second: float
    flops: Mapping[str, float]
    source: str

    def milliseconds(self, work: Work, dtype: torch.dtype) -> float:
        """The floor of some work: the time to move its bytes once or to do its multiply-adds, whichever is longer."""
        moved = work.entries * dtype.itemsize / self.bytes_per_second
        computed = 2 * work.multiply_adds / self.flops[name_of(dtype)]
        return 1e3 * max(moved, computed)


def name_of(dtype: torch.dtype) -> str:
    """Name of a dtype in the results, such as bfloat16."""
    return str(dtype).removeprefix("torch.")


def _half(flops: float, single: float) -> dict[str, float]:
    return {"bfloat16": flops, "float16": flops, "float32": single}


# one card for each architecture of the kernels' tables: dense matrix units in half precision, no TF32 in float32
CARDS = {
    "sm80": ("A100 80GB SXM", Roof(2.039e12, _half(312e12, 19.5e12), "NVIDIA A100 data sheet, 2022")),
    "sm90": ("H200 SXM", Roof(4.8e12, _half(989.5e12, 67e12), "NVIDIA H200 data sheet, 2024")),
    "sm100": (
        "B200 SXM",
        Roof(8.0e12, _half(2250e12, 80e12), "NVIDIA Blackwell architecture brief, HGX B200 at 1000 W"),
    ),
    "gfx942": ("MI300X", Roof(5.3e12, _half(1307.4e12, 163.4e12), "AMD Instinct MI300X data sheet, 2023")),
}


def measured(
    device: torch.device, dtypes: list[torch.dtype], meter: Meter, copied: int = 2**30, side: int = 8192
) -> Roof:
    """Measures the roof of a device, by a large copy and a square matrix product in each dtype.

    Args:
        device: device to measure.
        dtypes: dtypes of the matrix products.
        meter: measures a call.
        copied: bytes of the copy.
        side: side of the matrices.
    """
    source, target = (torch.empty(copied, dtype=torch.uint8, device=device) for _ in range(2))
    seconds = 1e-3 * summary(meter.milliseconds(lambda: target.copy_(source)))["median"]
    flops = {}
    for dtype in dtypes:
        a, b = (torch.randn(side, side, dtype=dtype, device=device) for _ in range(2))
        out = torch.empty_like(a)
        times = meter.milliseconds(functools.partial(torch.mm, a, b, out=out))
        flops[name_of(dtype)] = 2 * side**3 / (1e-3 * summary(times)["median"])
    return Roof(
        2 * copied / seconds, flops, f"measured: a copy of {copied} bytes, products of {side} x {side} matrices"
    )
