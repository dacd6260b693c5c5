"""Eager execution of the neighborhood operators, compared with the reference in float64: values and every gradient."""

from __future__ import annotations

import random

import pytest
import torch
from comparison import Run, assert_as_exact_as, assert_close, roundings
from neighborhood_cases import CASES, OPERATORS, Case, random_case, run
from test_geometry import natten_keys
from torch.autograd.profiler import profile

from attnzoo.kernels import neighborhood_attention, neighborhood_av, neighborhood_qk
from attnzoo.kernels.neighborhood import eager_chunks
from attnzoo.kernels.neighborhood.geometry import Axis

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
operators = pytest.mark.parametrize("operator", OPERATORS)


def runs(operator: str, case: Case, dtype: torch.dtype) -> tuple[Run, Run, Run]:
    """Returns the results of eager, of plain torch in the same dtype, and of float64."""
    inputs = case.inputs(operator, dtype)
    truth = run(operator, case, inputs, "reference", torch.float64)
    plain = run(operator, case, inputs, "reference")
    return run(operator, case, inputs, "eager"), plain, truth


def check(operator: str, case: Case, dtype: torch.dtype) -> None:
    assert_as_exact_as(*runs(operator, case, dtype), dtype)


@operators
@cases
def test_eager_is_as_exact_as_plain_torch(case: Case, operator: str) -> None:
    check(operator, case, torch.float32)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses chunks of one column of tiles, which small maps never have otherwise."""
    for name in ("FORWARD_SCORES", "BACKWARD_SCORES"):
        monkeypatch.setattr(eager_chunks, name, 64)


@pytest.mark.usefixtures("small_chunks")
@cases
def test_chunks_make_no_difference(case: Case) -> None:
    check("attention", case, torch.float32)


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("size", [(7, 7), (7, 30), (30, 7), (14, 14), (33, 20)], ids=str)
def test_inference_is_fused(size: tuple[int, int], has_bias: bool) -> None:
    """scaled_dot_product_attention silently falls back to its slow form, for instance because of the mask's shape."""
    inputs = Case("fused", size, 7, has_bias=has_bias).inputs("attention", torch.float32)
    with torch.no_grad(), profile() as record:
        neighborhood_attention(**inputs, kernel_size=7, backend="eager")
    names = {event.name for event in record.function_events}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_attention_math" not in names


def test_the_halves_make_the_whole() -> None:
    case = Case("plain", (9, 13), (5, 4), dilation=(1, 2), stride=(2, 1), is_causal=(True, False))
    inputs = case.inputs("attention", torch.float64)
    q, k, v, bias = inputs.values()
    scores = neighborhood_qk(q, k, **case.window, bias=bias)
    halves = neighborhood_av(scores.softmax(-1), v, **case.window)
    assert_close("output", halves, neighborhood_attention(q, k, v, **case.window, bias=bias), 1e-14)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_missing_weights_are_not_read(backend: str) -> None:
    case = Case("causal", (6, 7), 3, is_causal=True)
    inputs = case.inputs("av", torch.float64)
    clean = neighborhood_av(**inputs, **case.window, backend=backend)
    scores = neighborhood_qk(inputs["v"], inputs["v"], **case.window, backend=backend)
    poisoned = inputs["weights"].detach().masked_fill(scores.isinf(), torch.nan).requires_grad_()
    out = neighborhood_av(poisoned, inputs["v"], **case.window, backend=backend)
    assert_close("output", out, clean, 0)
    out.sum().backward()
    assert not poisoned.grad.isnan().any()
    assert not inputs["v"].grad.isnan().any()


@pytest.mark.parametrize("case", [case for case in CASES if case.batch], ids=lambda case: case.name)
def test_reference_follows_the_geometry(case: Case) -> None:
    """Computes the definition of the paper: a loop over queries and keys."""
    q, k, v, bias = (Case(**{**vars(case), "has_bias": True}).inputs("attention", torch.float64)).values()
    out = neighborhood_attention(q, k, v, **case.window, bias=bias, scale=0.3, backend="reference")
    axes = axes_of(case)
    generator = random.Random(case.name)
    for _ in range(12):
        i, j = (generator.randrange(length) for length in case.size)
        keys = [(a, b) for a in natten_keys(axes[0], i) for b in natten_keys(axes[1], j)]
        places = [[(key[n] - (i, j)[n]) // axes[n].dilation + axes[n].kernel - 1 for key in keys] for n in range(2)]
        rows, columns = zip(*keys, strict=True)
        scores = torch.einsum("bhd,bkhd->bhk", q[:, i, j], k[:, rows, columns]) * 0.3 + bias[:, places[0], places[1]]
        want = torch.einsum("bhk,bkhe->bhe", scores.softmax(-1), v[:, rows, columns])
        assert_close(f"output at {i, j}", out[:, i, j], want, 1e-13)


def axes_of(case: Case) -> list[Axis]:
    """Returns the axes of a case."""
    per_axis = [value if isinstance(value, tuple) else (value, value) for value in case.window.values()]
    return [Axis(case.size[n], *(value[n] for value in per_axis)) for n in range(2)]


def draw(seed: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A random case, and random sizes of chunks."""
    sizes = random.Random(-seed)
    for name in ("FORWARD_SCORES", "BACKWARD_SCORES"):
        monkeypatch.setattr(eager_chunks, name, sizes.choice([64, 4096, 512 * 1024]))
    torch.manual_seed(seed)
    return random_case(seed, longest)


@pytest.mark.usefixtures("poisoned_allocations")
@pytest.mark.parametrize("first", range(0, 200, 20), ids=lambda first: f"seeds {first} to {first + 19}")
def test_random_shapes(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 20):
        case = draw(seed, 20, monkeypatch)
        for operator in OPERATORS:
            check(operator, case, torch.float32)


# Of thousands of draws, plain torch is exact by chance in some: the worst of a hundred draws is compared.
@pytest.mark.slow
@pytest.mark.usefixtures("poisoned_allocations")
@pytest.mark.parametrize("first", range(1000, 3000, 100), ids=lambda first: f"seeds {first} to {first + 99}")
def test_many_random_shapes(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worst: dict[tuple[str, str], tuple[float, float]] = {}
    for seed in range(first, first + 100):
        case = draw(seed, 40, monkeypatch)
        for operator in OPERATORS:
            for name, pair in roundings(*runs(operator, case, torch.float32), torch.float32).items():
                ours, plain = (
                    max(old, new) for old, new in zip(worst.get((operator, name), (0, 0)), pair, strict=True)
                )
                worst[operator, name] = ours, plain
    assert {key: pair for key, pair in worst.items() if not pair[0] <= 2 * pair[1] + 4} == {}
