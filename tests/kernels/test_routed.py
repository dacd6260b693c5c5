"""Eager execution of routed attention, compared with the reference in float64: values and every gradient."""

from __future__ import annotations

import random

import pytest
import torch
from comparison import assert_as_exact_as, assert_close, roundings
from routed_cases import CASES, Case, random_case, run, runs
from torch.autograd.profiler import profile

from attnzoo.kernels import routed_attention
from attnzoo.kernels.routed import eager_chunks
from attnzoo.kernels.routed.geometry import Regions

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def check(case: Case, dtype: torch.dtype) -> None:
    ours, plain, truth, more = runs(case, dtype, "eager")
    assert_as_exact_as(ours, plain, truth, dtype, more)


@cases
def test_eager_is_as_exact_as_plain_torch(case: Case) -> None:
    check(case, torch.float32)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses chunks of one head and one region, which small maps never have otherwise."""
    for name in ("CHUNK_NUMBERS", "BACKWARD_SCORES"):
        monkeypatch.setattr(eager_chunks, name, 64)


@pytest.mark.usefixtures("small_chunks")
@cases
def test_chunks_make_no_difference(case: Case) -> None:
    check(case, torch.float32)


HALF_CASES = [
    Case("masked", (12, 10), 2, 3),
    Case("gathered", (36, 30), 6, 4, batch=1, heads=1),
    Case("repeated, masked", (8, 12), (2, 3), 4, routing="repeated"),
    Case("repeated, gathered", (36, 32), 4, 4, batch=1, heads=1, width=13, value_width=13, routing="repeated"),
    Case("all regions, packed", (9, 12), 3, 9, layout="packed"),
]
half_cases = pytest.mark.parametrize("case", HALF_CASES, ids=lambda case: case.name)


@half_cases
def test_inference_is_fused(case: Case) -> None:
    """scaled_dot_product_attention silently falls back to its slow form, for instance because of the mask's shape."""
    inputs, routes = case.inputs(torch.float32), case.routes()
    with torch.no_grad(), profile() as record:
        routed_attention(**inputs, routes=routes, regions=case.regions, backend="eager")
    names = {event.name for event in record.function_events}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_attention_math" not in names


@pytest.mark.parametrize("case", [case for case in CASES if case.batch], ids=lambda case: case.name)
def test_reference_follows_the_paper(case: Case) -> None:
    """Computes routed attention query by query, with keys and values collected region by region."""
    inputs, routes = case.inputs(torch.float64), case.routes()
    q, k, v = inputs.values()
    out = routed_attention(**inputs, routes=routes, regions=case.regions, scale=0.3, backend="reference")
    rows, columns = case.regions if isinstance(case.regions, tuple) else (case.regions, case.regions)
    height, width = case.size[0] // rows, case.size[1] // columns
    generator = random.Random(case.name)
    for _ in range(12):
        image, i, j = (generator.randrange(length) for length in (case.batch, *case.size))
        route = routes[image, i // height * columns + j // width].tolist()
        corners = [(region // columns * height, region % columns * width) for region in route]
        keys, values = (
            torch.cat([x[image, a : a + height, b : b + width].flatten(0, 1) for a, b in corners]) for x in (k, v)
        )
        scores = torch.einsum("hd,khd->hk", q[image, i, j], keys) * 0.3
        want = torch.einsum("hk,khe->he", scores.softmax(-1), values)
        assert_close(f"output at {image, i, j}", out[image, i, j], want, 1e-13)


@pytest.mark.parametrize("split", [(1, 1), (2, 3), (3, 1), (4, 6)], ids=str)
def test_geometry(split: tuple[int, int]) -> None:
    regions = Regions((12, 6), split)
    positions = [position for region in range(regions.count) for position in regions.positions(region)]
    assert sorted(positions) == [(row, column) for row in range(12) for column in range(6)]
    for region in range(regions.count):
        assert len(regions.positions(region)) == regions.tokens
        assert {regions.region(*position) for position in regions.positions(region)} == {region}


@pytest.mark.parametrize("backend", ["reference", "eager"])
@half_cases
def test_the_order_of_a_route_makes_no_difference(case: Case, backend: str) -> None:
    inputs, routes = case.inputs(torch.float64), case.routes()
    first, second = (run(case, inputs, x, backend) for x in (routes, routes.flip(2)))
    for name, true in first.tensors.items():
        assert_close(name, second.tensors[name], true, 1e-13 * true.abs().max().item())


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_what_is_on_no_route_is_not_read(backend: str) -> None:
    case = Case("topk 2", (36, 36), 6, 2)
    inputs, routes = case.inputs(torch.float64), case.routes().clamp(min=1)
    clean = run(case, inputs, routes, backend)
    with torch.no_grad():
        for name in "kv":
            inputs[name][:, :6, :6] = torch.nan
    found = run(case, inputs, routes, backend)
    for name, true in clean.tensors.items():
        assert_close(name, found.tensors[name], true, 0)


backends = pytest.mark.parametrize("backend", ["reference", "eager"])


def draw(seed: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A random case, and random sizes of chunks."""
    sizes = random.Random(-seed)
    for name in ("CHUNK_NUMBERS", "BACKWARD_SCORES"):
        monkeypatch.setattr(eager_chunks, name, sizes.choice([64, 4096, 512 * 1024]))
    torch.manual_seed(seed)
    return random_case(seed, longest)


@pytest.mark.usefixtures("poisoned_allocations")
@pytest.mark.parametrize("first", range(0, 25, 5), ids=lambda first: f"seeds {first} to {first + 4}")
def test_random_shapes(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 5):
        check(draw(seed, 30, monkeypatch), torch.float32)


# Of many draws, plain torch is exact by chance in some: the worst of a hundred draws is compared.
@pytest.mark.slow
@pytest.mark.usefixtures("poisoned_allocations")
@pytest.mark.parametrize("first", [1000, 1100], ids=lambda first: f"seeds {first} to {first + 99}")
def test_many_random_shapes(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worst: dict[str, tuple[float, float]] = {}
    for seed in range(first, first + 100):
        case = draw(seed, 45, monkeypatch)
        inputs, routes = case.inputs(torch.float32), case.routes()
        ours, plain = (run(case, inputs, routes, backend) for backend in ("eager", "reference"))
        truth = run(case, inputs, routes, "reference", torch.float64)
        for name, pair in roundings(ours, plain, truth, torch.float32).items():
            worst[name] = tuple(max(old, new) for old, new in zip(worst.get(name, (0, 0)), pair, strict=True))
    assert {name: pair for name, pair in worst.items() if not pair[0] <= 2 * pair[1] + 4} == {}
