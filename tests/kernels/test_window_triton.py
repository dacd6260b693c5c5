"""The Triton kernels of window attention in Triton's interpreter, compared with the reference in float64."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from comparison import assert_draws, roundings
from window_cases import CASES, Case, random_case, run

from tests.tiers import fifth

pytest.importorskip("triton")

from attnzoo.kernels import triton_problem
from attnzoo.kernels.intervals import triton_launches
from attnzoo.kernels.intervals.triton_configurations import Budget
from attnzoo.kernels.triton_tables import read_table
from attnzoo.kernels.window import triton_small

pytestmark = pytest.mark.usefixtures("poisoned_allocations", "quick_interpreter")

# an interpreted program takes about 10 ms, so cases have the fewest images, heads and windows that can be told apart
SMALL_CASES = [
    replace(case, batch=min(case.batch, 1), heads=min(case.heads, 2))
    for case in CASES
    if case.name not in ("window 32", "many windows")
]
SMALL_CASES += [Case("three images", (6, 5), 3, shift=1, batch=3, heads=2)]


KERNELS = "whole", "in tiles"


@pytest.fixture(params=KERNELS)
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Selects the kernels: kernels that hold a whole window, for every class of shapes, or the interval kernels."""
    if request.param == "whole":
        every = {str(size): {str(block): [4, 2] for block in (32, 64, 128, 256)} for size in (2, 4)}
        monkeypatch.setitem(read_table("windows")["entries"], "sm90", {"forward": every, "backward": every})
    else:
        monkeypatch.setattr(triton_small, "LARGEST", 0)
    return request.param


def check(case: Case, dtype: torch.dtype = torch.float32) -> None:
    draws = [case.inputs(dtype) for _ in range(4)]
    assert_draws(lambda *arguments: run(case, *arguments), draws, dtype, case.windows == (1, 1))


@pytest.mark.parametrize(("case", "kernels"), fifth(SMALL_CASES, KERNELS), indirect=["kernels"])
def test_triton_is_as_exact_as_plain_torch(case: Case, kernels: str) -> None:
    if kernels == "whole" and max(case.windows) > 8:
        pytest.skip("a window that no program holds whole")
    check(case)


@pytest.mark.full
def test_a_window_of_a_thousand_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_launches, "budget_of", lambda *_: Budget(128, 256, 4, 2))
    check(Case("window 32", (32, 20), 32, shift=16, batch=1, heads=1))


HALF_CASES = [
    Case("shift, ragged", (7, 9), (5, 4), shift=(2, 3), batch=2, heads=1),
    Case("without bias, packed", (6, 10), 3, has_bias=False, layout="packed", batch=1, heads=2),
]


@pytest.mark.parametrize(
    ("dtype", "case", "kernels"), fifth([torch.bfloat16, torch.float16], HALF_CASES, KERNELS), indirect=["kernels"]
)
def test_half_precision(case: Case, dtype: torch.dtype, kernels: str) -> None:
    check(case, dtype)


def draw(seed: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A random case with few heads, random tiles, and random shares of images."""
    generator = random.Random(-seed)
    budget = Budget(generator.choice([16, 32, 64]), generator.choice([16, 32, 128]), 4, 2)
    monkeypatch.setattr(triton_launches, "budget_of", lambda *_: budget)
    multiprocessors = generator.choice([0, 1, 256])
    monkeypatch.setattr(triton_problem, "multiprocessors_of", lambda device: multiprocessors)
    torch.manual_seed(seed)
    case = random_case(seed, longest)
    return replace(case, batch=min(case.batch, 3), heads=min(case.heads, 2))


@pytest.mark.parametrize(("seed", "kernels"), fifth(range(24), KERNELS), indirect=["kernels"])
def test_random_shapes(seed: int, kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(draw(seed, 12, monkeypatch))


# Of hundreds of draws, plain torch is exact by chance in some: the worst of fifty draws is compared.
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("first", range(1000, 1200, 50), ids=lambda first: f"seeds {first} to {first + 49}")
def test_many_random_shapes(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worst: dict[str, tuple[float, float]] = {}
    for seed in range(first, first + 50):
        case = draw(seed, 20, monkeypatch)
        inputs = case.inputs(torch.float32)
        truth = run(case, inputs, "reference", torch.float64)
        ours, plain = (run(case, inputs, backend) for backend in ("triton", "reference"))
        for name, pair in roundings(ours, plain, truth, torch.float32).items():
            worst[name] = tuple(max(old, new) for old, new in zip(worst.get(name, (0, 0)), pair, strict=True))
    assert {name: pair for name, pair in worst.items() if not pair[0] <= 2 * pair[1] + 4} == {}


CASE = Case("plain", (5, 6), (3, 4), shift=(1, 2), batch=2, heads=2)


@pytest.mark.usefixtures("kernels")
def test_every_run_is_the_same() -> None:
    inputs = CASE.inputs(torch.float32)
    first, second = (run(CASE, inputs, "triton") for _ in range(2))
    assert all(torch.equal(x, second.tensors[name]) for name, x in first.tensors.items())
