"""The Triton kernels of routed attention in Triton's interpreter, compared with the reference in float64."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from comparison import assert_as_exact_as, assert_close, roundings
from routed_cases import CASES, Case, random_case, run, runs
from torch import Tensor

from tests.tiers import fifth

triton = pytest.importorskip("triton")

from attnzoo.kernels.routed import triton_kernels  # noqa: E402
from attnzoo.kernels.routed.triton_kernels import sources_of  # noqa: E402
from attnzoo.kernels.triton_launch import Configuration  # noqa: E402

pytestmark = pytest.mark.usefixtures("poisoned_allocations", "quick_interpreter")

# an interpreted program takes several milliseconds, so cases have the fewest images and heads that can be told apart
SMALL_CASES = [replace(case, batch=min(case.batch, 1), heads=min(case.heads, 2)) for case in CASES]
SMALL_CASES += [
    Case("three images, two heads", (6, 8), 2, 2, batch=3, heads=2),
    Case("regions of 49 tokens", (21, 14), (3, 2), 2, batch=1, heads=1),
    Case("regions of several tiles", (20, 33), (2, 3), 2, batch=1, heads=1, routing="repeated"),
    Case("wide heads", (6, 8), 2, 2, batch=1, heads=1, width=256, value_width=130),
]


def check(case: Case, dtype: torch.dtype = torch.float32) -> None:
    ours, plain, truth, more = runs(case, dtype, "triton")
    assert_as_exact_as(ours, plain, truth, dtype, more)


@pytest.mark.parametrize("case", fifth(SMALL_CASES))
def test_triton_is_as_exact_as_plain_torch(case: Case) -> None:
    check(case)


HALF_CASES = [
    Case("plain", (6, 10), 2, 3, batch=1, heads=2),
    Case("repeated, odd width", (6, 9), 3, 3, batch=1, heads=1, width=13, routing="repeated"),
    Case("packed", (8, 9), (2, 3), 2, batch=1, heads=2, layout="packed"),
]


@pytest.mark.parametrize(("dtype", "case"), fifth([torch.bfloat16, torch.float16], HALF_CASES))
def test_half_precision(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


def draw(seed: int, longest: int, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A random case with few heads and images, and random tiles."""
    generator = random.Random(-seed)
    constants = {"TILE": generator.choice([16, 32, 64]), "CHUNK": generator.choice([16, 32, 128])}
    monkeypatch.setattr(triton_kernels, "configuration", lambda *_: Configuration(constants))
    torch.manual_seed(seed)
    case = random_case(seed, longest)
    return replace(case, batch=min(case.batch, 2), heads=min(case.heads, 2))


@pytest.mark.parametrize("seed", fifth(range(25)))
def test_random_shapes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(draw(seed, 12, monkeypatch))


# Of hundreds of draws, plain torch is exact by chance in some: the worst of fifty draws is compared.
@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(1000, 1200, 50), ids=lambda first: f"seeds {first} to {first + 49}")
def test_many_random_shapes(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worst: dict[str, tuple[float, float]] = {}
    for seed in range(first, first + 50):
        case = draw(seed, 20, monkeypatch)
        inputs, routes = case.inputs(torch.float32), case.routes()
        ours, plain = (run(case, inputs, routes, backend) for backend in ("triton", "reference"))
        truth = run(case, inputs, routes, "reference", torch.float64)
        for name, pair in roundings(ours, plain, truth, torch.float32).items():
            worst[name] = tuple(max(old, new) for old, new in zip(worst.get(name, (0, 0)), pair, strict=True))
    assert {name: pair for name, pair in worst.items() if not pair[0] <= 2 * pair[1] + 4} == {}


def test_sources_are_the_routes_turned_around() -> None:
    routes = torch.randint(7, (3, 7, 4), dtype=torch.int32)
    sources, starts = sources_of(routes)
    for image in range(3):
        for region in range(7):
            want = [source for source in range(7) for target in routes[image, source] if target == region]
            assert sources[image, starts[image, region] : starts[image, region + 1]].tolist() == want


PLAIN = Case("plain", (4, 6), 2, 3, batch=2, heads=2, value_width=5, routing="repeated")


def drawn() -> tuple[dict[str, Tensor], Tensor]:
    return PLAIN.inputs(torch.float32), PLAIN.routes()


def test_what_is_on_no_route_is_not_read() -> None:
    inputs, routes = drawn()
    routes = routes.clamp(min=1)
    clean = run(PLAIN, inputs, routes, "triton")
    with torch.no_grad():
        for name in "kv":
            inputs[name][:, :2, :3] = torch.nan
    found = run(PLAIN, inputs, routes, "triton")
    for name in ("output", "gradient of q"):
        assert_close(name, found.tensors[name], clean.tensors[name], 0)


def test_routes_out_of_range_read_the_nearest_region() -> None:
    # what cannot be checked on a GPU; the interpreter checks every address
    case = Case("plain", (4, 6), 2, 2, batch=1, heads=1)
    inputs, routes = case.inputs(torch.float32), case.routes().clone()
    routes[0, 0], routes[0, 3] = torch.tensor([-5, 2_000_000_000]), torch.tensor([4, 1])
    attention, arguments = torch.ops.attnzoo.routed_attention, ([2, 2], 0.3)
    found = []
    for given in (routes, routes.clamp(0, 3)):
        out, _ = attention(*inputs.values(), given, *arguments)
        found.append((out, *torch.autograd.grad(out.sum(), list(inputs.values()))))
    for ours, clamped in zip(*found, strict=True):
        assert_close("result", ours, clamped, 0)
