"""An operator whose only kernel is a matrix product: what the static benchmark compiles in its own tests."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from attnzoo.kernels.triton_launch import Configuration, Launch
from attnzoo.tools.bench.operators import NamedLaunch, Work


class Cut(NamedTuple):
    rows: int
    columns: int


@triton.jit
def product(a, strides, b, out, length, missing, scale, CUT: tl.constexpr, BLOCK: tl.constexpr):
    rows, columns = tl.arange(0, CUT.rows), tl.arange(0, CUT.columns)
    total = tl.zeros((CUT.rows, CUT.columns), tl.float32)
    for start in range(0, length, BLOCK):
        inner = start + tl.arange(0, BLOCK)
        left = tl.load(a + rows[:, None] * strides[0] + inner[None, :] * strides[1])
        right = tl.load(b + inner[:, None] * CUT.columns + columns[None, :])
        total += tl.dot(left, right)
    tl.store(out + rows[:, None] * CUT.columns + columns[None, :], total * scale)


@triton.jit
def refused(a, strides, b, out, length, missing, scale, CUT: tl.constexpr, BLOCK: tl.constexpr):
    tl.static_assert(CUT.rows == 0, "no machine takes this")


def launches(architecture: str) -> list[NamedLaunch]:
    return [
        NamedLaunch(kernel.__name__, _launch(kernel), torch.bfloat16, Work(1 << 20, 1 << 30))
        for kernel in (product, refused)
    ]


def _launch(kernel) -> Launch:
    a, b = (torch.empty(64, 64, dtype=torch.bfloat16, device="meta") for _ in range(2))
    return Launch(
        kernel,
        grid=lambda constants: 1,
        arguments={
            "a": a,
            "strides": a.stride(),
            "b": b,
            "out": torch.empty(64, 64, device="meta"),
            "length": 64,
            "missing": None,
            "scale": 0.5,
        },
        constants={"CUT": Cut(64, 64)},
        configuration=Configuration({"BLOCK": 32}),
    )
