"""The Triton kernels of the selective scan in Triton's interpreter, compared with the reference in float64."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from comparison import assert_draws
from scan_cases import CASES, Case, run

from tests.tiers import fifth

triton = pytest.importorskip("triton")

from attnzoo.kernels.selective_scan import triton_launches  # noqa: E402
from attnzoo.kernels.triton_launch import Configuration  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_allocations", "quick_interpreter")

# the interpreter joins the steps of every channel one by one, so cases have the fewest that can be told apart
LEAST = {"batch": 1, "heads": 2, "width": 2, "state": 2}
SMALL_CASES = [
    replace(case, **{name: min(getattr(case, name), count) for name, count in LEAST.items()}) for case in CASES
]
SMALL_CASES += [
    Case("two images, several tiles", 35, heads=2, width=2, state=2),
    Case("several programs of a sequence", 17, heads=2, width=11, state=2, batch=1, shared="u, delta, A, D"),
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


@pytest.mark.parametrize("block", fifth([1, 2, 8]))
def test_channels_of_a_program(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launches, "configuration", lambda *_: Configuration({"BLOCK": block}))
    check(Case("plain", 5, heads=2, width=5, state=2, batch=1, shared="C"))
