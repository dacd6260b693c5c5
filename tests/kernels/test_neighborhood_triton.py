"""The Triton kernels of the neighborhood operators in Triton's interpreter, compared with the reference in float64."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from comparison import assert_close, assert_draws, roundings
from neighborhood_cases import CASES, OPERATORS, Case, random_case, run

from tests.tiers import fifth

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

from attnzoo.kernels import (  # noqa: E402
    neighborhood_av,
    neighborhood_qk,
    triton_problem,
)
from attnzoo.kernels.intervals import triton_axis, triton_launches  # noqa: E402
from attnzoo.kernels.intervals.geometry import AxisGeometry  # noqa: E402
from attnzoo.kernels.intervals.triton_configurations import Budget  # noqa: E402
from attnzoo.kernels.neighborhood.geometry import Axis  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_allocations")
operators = pytest.mark.parametrize("operator", OPERATORS)

# an interpreted program takes about 30 ms, so cases have the fewest images and heads that can be told apart
SMALL_CASES = [replace(case, batch=min(case.batch, 1), heads=min(case.heads, 2)) for case in CASES]
SMALL_CASES += [
    Case("three images, two heads", (6, 5), 3, batch=3, heads=2),
    Case("one row", (1, 37), (1, 5), batch=1, heads=2),
    Case("one column", (37, 1), (6, 1), batch=1, heads=1),
    Case("kernel longer than a chunk", (4, 40), (3, 35), batch=1, heads=1),
    Case("wide heads", (5, 6), 3, batch=1, heads=1, width=256, value_width=130),
    Case("batch 0, without bias", (5, 6), 3, batch=0, has_bias=False),
]


def check(operator: str, case: Case, dtype: torch.dtype = torch.float32) -> None:
    draws = [case.inputs(operator, dtype) for _ in range(4)]
    one_key = operator == "attention" and case.kernels == (1, 1)
    assert_draws(lambda *arguments: run(operator, case, *arguments), draws, dtype, one_key)


@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.parametrize(("case", "operator"), fifth(SMALL_CASES, OPERATORS))
def test_triton_is_as_exact_as_plain_torch(case: Case, operator: str) -> None:
    check(operator, case)


@operators
def test_no_integer_overflows(operator: str) -> None:
    """The unpatched interpreter checks every integer operation."""
    check(operator, Case("plain", (9, 8), (5, 4), dilation=(1, 2), stride=(2, 1), batch=1, heads=1))


HALF_CASES = [
    Case("plain", (7, 10), 5, batch=1, heads=2),
    Case("dilation, stride", (10, 6), 3, dilation=2, stride=2, batch=1, heads=1, width=13),
    Case("causal, packed", (6, 7), 3, is_causal=True, batch=1, heads=2, layout="packed"),
]


@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.parametrize(("dtype", "operator", "case"), fifth([torch.bfloat16, torch.float16], OPERATORS, HALF_CASES))
def test_half_precision(case: Case, operator: str, dtype: torch.dtype) -> None:
    check(operator, case, dtype)


def draw(seed: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A random case with few heads and images, random tiles, and random shares of images."""
    generator = random.Random(-seed)
    budget = Budget(generator.choice([16, 32, 64]), generator.choice([16, 32, 128]), 4, 2)
    monkeypatch.setattr(triton_launches, "budget_of", lambda *_: budget)
    multiprocessors = generator.choice([0, 1, 256])
    monkeypatch.setattr(triton_problem, "multiprocessors_of", lambda device: multiprocessors)
    torch.manual_seed(seed)
    case = random_case(seed, longest)
    return replace(case, batch=min(case.batch, 2), heads=min(case.heads, 2))


@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.parametrize("seed", fifth(range(24)))
def test_random_shapes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    case = draw(seed, 10, monkeypatch)
    for operator in OPERATORS:
        check(operator, case)


# Of hundreds of draws, plain torch is exact by chance in some: the worst of fifty draws is compared.
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.parametrize("first", range(1000, 1200, 50), ids=lambda first: f"seeds {first} to {first + 49}")
@operators
def test_many_random_shapes(operator: str, first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worst: dict[str, tuple[float, float]] = {}
    for seed in range(first, first + 50):
        case = draw(seed, 20, monkeypatch)
        inputs = case.inputs(operator, torch.float32)
        truth = run(operator, case, inputs, "reference", torch.float64)
        ours, plain = (run(operator, case, inputs, backend) for backend in ("triton", "reference"))
        for name, pair in roundings(ours, plain, truth, torch.float32).items():
            worst[name] = tuple(max(old, new) for old, new in zip(worst.get(name, (0, 0)), pair, strict=True))
    assert {name: pair for name, pair in worst.items() if not pair[0] <= 2 * pair[1] + 4} == {}


@triton.jit
def intervals_kernel(length, segment, found, AXIS: tl.constexpr, RANKS: tl.constexpr):
    """Computes first key, end of keys, first query and end of queries for each rank as a query and as a key."""
    ranks = tl.arange(0, RANKS)
    tl.store(found + ranks, triton_axis.first_key(ranks, segment, length, 0, AXIS))
    tl.store(found + RANKS + ranks, triton_axis.end_of_keys(ranks, segment, length, 0, AXIS))
    tl.store(found + 2 * RANKS + ranks, triton_axis.first_query(ranks, segment, length, 0, AXIS))
    tl.store(found + 3 * RANKS + ranks, triton_axis.end_of_queries(ranks + 1, segment, length, 0, AXIS))


@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.parametrize("is_causal", [False, True], ids=["centred", "causal"])
@pytest.mark.parametrize("dilation", [1, 3])
def test_intervals_are_the_geometry(dilation: int, is_causal: bool) -> None:
    found = torch.empty(4, 16, dtype=torch.int32)
    for length in range(dilation, 10 * dilation, dilation + 1 if dilation > 1 else 1):
        for kernel in range(1, length // dilation + 1):
            for stride in range(1, kernel + 1):
                axis = Axis(length, kernel, dilation, stride, is_causal)
                for group in range(dilation):
                    rule = AxisGeometry(kernel, dilation, stride, is_causal)
                    intervals_kernel[(1,)](length, group, found, AXIS=rule, RANKS=16)
                    windows = [axis.window(group, rank) for rank in range(axis.group_length(group))]
                    for rank, window in enumerate(windows):
                        assert tuple(found[:2, rank].tolist()) == window, (axis, group, rank)
                        seen_by = [query for query, (first, end) in enumerate(windows) if first <= rank < end]
                        if seen_by:
                            queries = tuple(found[2:, rank].tolist())
                            assert queries == (seen_by[0], seen_by[-1] + 1), (axis, group, rank)


@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.parametrize("name", ["va", "table"])
def test_opcheck_of_derivatives_of_the_halves(name: str) -> None:
    case = Case("plain", (5, 6), (3, 2), stride=(1, 2), is_causal=(True, False), batch=2, heads=2)
    weights, v = case.inputs("av", torch.float32).values()
    geometry = [3, 2], [1, 1], [1, 2], [True, False]
    arguments = (weights, v, *geometry, 0.5) if name == "va" else (weights, *geometry)
    torch.library.opcheck(getattr(torch.ops.attnzoo, f"neighborhood_{name}").default, arguments)


@pytest.mark.usefixtures("quick_interpreter")
def test_missing_weights_are_not_read() -> None:
    case = Case("causal", (4, 5), 3, is_causal=True, batch=1, heads=1)
    inputs = case.inputs("av", torch.float32)
    clean = neighborhood_av(**inputs, **case.window, backend="triton")
    scores = neighborhood_qk(inputs["v"], inputs["v"], **case.window, backend="triton")
    poisoned = inputs["weights"].detach().masked_fill(scores.isinf(), torch.nan).requires_grad_()
    out = neighborhood_av(poisoned, inputs["v"], **case.window, backend="triton")
    assert_close("output", out, clean, 0)
    out.sum().backward()
    assert not poisoned.grad.isnan().any()
    assert not inputs["v"].grad.isnan().any()
