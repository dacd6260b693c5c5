"""Eager execution of the selective scan, compared with the reference in float64: values and every gradient."""

from __future__ import annotations

import pytest
import torch
from comparison import assert_as_exact_as, assert_close
from scan_cases import CASES, Case, run

from attnzoo.kernels import selective_scan
from attnzoo.kernels.selective_scan import eager_batch, eager_chunks
from attnzoo.kernels.selective_scan.geometry import DOWN, PATTERNS, RIGHT, START, UP, four_routes, moves_of

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def check(case: Case, dtype: torch.dtype) -> None:
    inputs, *others = (case.inputs(dtype) for _ in range(4))
    (plain, truth), *more = (
        (run(case, draw, "reference"), run(case, draw, "reference", torch.float64)) for draw in (inputs, *others)
    )
    assert_as_exact_as(run(case, inputs, "eager"), plain, truth, dtype, more)


@pytest.mark.usefixtures("poisoned_allocations")
@cases
def test_eager_is_as_exact_as_plain_torch(case: Case) -> None:
    check(case, torch.float32)


@pytest.mark.usefixtures("poisoned_allocations")
@pytest.mark.parametrize("numbers", [1, 200, 500])
def test_blocks_make_no_difference(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small maps are one block otherwise."""
    for name in ("FORWARD_NUMBERS", "BACKWARD_NUMBERS"):
        monkeypatch.setattr(eager_chunks, name, numbers)
    for case in CASES[:4]:
        check(case, torch.float32)


@cases
def test_a_whole_batch_at_once_is_the_same(case: Case) -> None:
    inputs = case.inputs(torch.float64)
    routes = case.arguments.get("routes")
    found = eager_batch.scan(*(inputs.get(name) for name in ("u", "delta", "A", "B", "C", "D")), routes)
    assert_close("output", found, selective_scan(**inputs, routes=routes, backend="reference"), 1e-12)


def test_reference_follows_the_equation() -> None:
    """One channel, one number of state, by hand."""
    steps = [3, 5, 7], [1, 2, 3], [2, 2, 2], [1, 1, 1]
    u, delta, B, C = (torch.tensor(x, dtype=torch.float64).view(1, 3, 1, 1) for x in steps)
    A, D = -torch.ones(1, 1, 1, dtype=torch.float64), torch.full((1, 1), 10.0, dtype=torch.float64)
    out = selective_scan(u, delta, A, B, C, D, routes=torch.tensor([[2, 0, 1]]), backend="reference")
    first = 1 * 2 * 7
    second = first * torch.tensor(-2.0).double().exp() + 2 * 2 * 3
    third = second * torch.tensor(-3.0).double().exp() + 3 * 2 * 5
    want = torch.stack([second + 30, third + 50, first + torch.tensor(70.0).double()])
    assert_close("output", out.flatten(), want, 1e-12)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_a_state_is_kept_in_float32(backend: str) -> None:
    """A state in bfloat16 that counts steps stops at 256."""
    one = torch.ones(1, 400, 1, 1, dtype=torch.bfloat16)
    A = torch.zeros(1, 1, 1, dtype=torch.bfloat16)
    out = selective_scan(one, one, A, one, one, backend=backend).flatten()
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, torch.arange(1.0, 401).bfloat16())


def test_decays_to_zero_are_exact() -> None:
    """Step sizes so large that nothing of the state is left, where a quotient of exponentials would overflow."""
    case = Case("large steps", 30)
    inputs = case.inputs(torch.float32)
    with torch.no_grad():
        inputs["delta"].mul_(1000)
    ours, true = run(case, inputs, "eager"), run(case, inputs, "reference", torch.float64)
    for name, x in true.tensors.items():
        assert_close(name, ours.tensors[name], x, 1e-5 * x.abs().max().item())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_routes_visit_every_position_once(pattern: str) -> None:
    for size in ((1, 1), (1, 5), (4, 1), (2, 2), (3, 4), (5, 3), (6, 6)):
        every = [(row, column) for row in range(size[0]) for column in range(size[1])]
        for route in four_routes(pattern, *size):
            assert sorted(route) == every


def test_small_routes() -> None:
    first, _, second, _ = four_routes("snake", 2, 3)
    assert first == [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]
    assert second == [(0, 0), (1, 0), (1, 1), (0, 1), (0, 2), (1, 2)]
    assert moves_of(second) == [START, DOWN, RIGHT, UP, RIGHT, DOWN]
    first, _, second, _ = four_routes("diagonal", 2, 3)
    assert first == [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (1, 2)]
    assert second == [(row, 2 - column) for row, column in first]
    first, _, second, _ = four_routes("spiral", 3, 3)
    assert first == [(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0), (1, 1)]
    assert second == [(2 - row, column) for row, column in first]
