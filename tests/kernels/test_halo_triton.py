"""The Triton kernels of halo attention in Triton's interpreter, compared with the reference in float64."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from comparison import assert_draws
from halo_cases import CASES, Case, random_case, run

from tests.tiers import fifth

triton = pytest.importorskip("triton")

from attnzoo.kernels.halo import triton_kernels  # noqa: E402
from attnzoo.kernels.triton_launch import Configuration  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_allocations", "quick_interpreter")

# an interpreted program takes several milliseconds, so cases have the fewest images and heads that can be told apart
SMALL_CASES = [replace(case, batch=min(case.batch, 1), heads=min(case.heads, 2)) for case in CASES]
SMALL_CASES += [
    Case("two images", (5, 6), 4, 1, batch=2, heads=2),
    Case("wide heads", (5, 4), 4, 1, batch=1, heads=1, width=256, value_width=130),
]


def check(case: Case, dtype: torch.dtype = torch.float32) -> None:
    draws = [case.inputs(dtype) for _ in range(4)]
    assert_draws(lambda inputs, backend, *rest: run(case, inputs, backend, *rest), draws, dtype)


@pytest.mark.parametrize("case", fifth(SMALL_CASES))
def test_triton_is_as_exact_as_plain_torch(case: Case) -> None:
    check(case)


@pytest.mark.parametrize(("dtype", "case"), fifth([torch.bfloat16, torch.float16], SMALL_CASES[:3]))
def test_half_precision(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.mark.parametrize("seed", fifth(range(12)))
def test_random_shapes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(-seed)
    constants = {"TILE": generator.choice([16, 32]), "CHUNK": generator.choice([16, 32, 64])}
    monkeypatch.setattr(triton_kernels, "configuration", lambda *_: Configuration(constants))
    torch.manual_seed(seed)
    check(random_case(seed, 9))
