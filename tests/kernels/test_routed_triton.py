"""The Triton kernels of routed attention in Triton's interpreter, compared with the reference in float64."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from comparison import assert_as_exact_as, assert_close, roundings, upstream
from routed_cases import CASES, Case, random_case, run, runs
from torch import Tensor

triton = pytest.importorskip("triton")

from attnzoo.kernels import routed_attention  # noqa: E402
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


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.name)
def test_triton_is_as_exact_as_plain_torch(case: Case) -> None:
    check(case)


HALF_CASES = [
    Case("plain", (6, 10), 2, 3, batch=1, heads=2),
    Case("repeated, odd width", (6, 9), 3, 3, batch=1, heads=1, width=13, routing="repeated"),
    Case("packed", (8, 9), (2, 3), 2, batch=1, heads=2, layout="packed"),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("case", HALF_CASES, ids=lambda case: case.name)
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


@pytest.mark.parametrize("seed", range(25))
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


def test_opcheck() -> None:
    inputs, routes = drawn()
    torch.library.opcheck(torch.ops.attnzoo.routed_attention.default, (*inputs.values(), routes, [2, 2], 0.3))


def test_opcheck_of_the_derivative() -> None:
    inputs, routes = drawn()
    arguments = [*inputs.values(), routes, [2, 2], 0.3]
    out, logsumexp = torch.ops.attnzoo.routed_attention(*arguments)
    tensors = [x.detach() for x in (upstream(out), *inputs.values(), routes, out, logsumexp)]
    torch.library.opcheck(torch.ops.attnzoo.routed_attention_backward.default, (*tensors, [2, 2], 0.3, [True] * 3))


def test_compiles_as_one_graph() -> None:
    inputs, routes = drawn()

    def call(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return routed_attention(q, k, v, routes, 2, backend="triton")

    found = []
    for function in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        out = function(*inputs.values())
        found.append([out, *torch.autograd.grad(out, list(inputs.values()), upstream(out))])
    for ours, true in zip(*found, strict=True):
        assert_close("compiled", ours, true, 0)


@pytest.mark.parametrize("names", ["q", "k", "v", "qv"])
def test_gradients_of_some_inputs_alone(names: str) -> None:
    inputs, routes = drawn()
    every = run(PLAIN, inputs, routes, "triton")
    some = {name: x.detach().requires_grad_(name in names) for name, x in inputs.items()}
    out = routed_attention(**some, routes=routes, regions=2, backend="triton")
    out.backward(upstream(out))
    for name, x in some.items():
        if name in names:
            assert_close(f"gradient of {name}", x.grad, every.tensors[f"gradient of {name}"], 0)
        else:
            assert x.grad is None


def test_an_expanded_gradient_is_read() -> None:
    inputs, routes = drawn()
    found = []
    for backend in ("triton", "reference"):
        out = routed_attention(**inputs, routes=routes, regions=2, backend=backend)
        found.append(torch.autograd.grad(out.sum(), list(inputs.values())))
    for ours, true in zip(*found, strict=True):
        assert_close("gradient", ours, true, 1e-5)


def test_every_run_is_the_same() -> None:
    inputs, routes = drawn()
    first, second = (run(PLAIN, inputs, routes, "triton") for _ in range(2))
    assert all(torch.equal(x, second.tensors[name]) for name, x in first.tensors.items())


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


def test_autocast() -> None:
    inputs, routes = drawn()
    with torch.autocast("cpu", torch.bfloat16):
        out = routed_attention(**inputs, routes=routes, regions=2, backend="triton")
    assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(x.grad.dtype == torch.float32 for x in inputs.values())


def test_second_derivative_is_refused() -> None:
    inputs, routes = drawn()
    out = routed_attention(**inputs, routes=routes, regions=2, backend="triton")
    (gradient,) = torch.autograd.grad(out.square().sum(), inputs["q"], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative: use backend='eager'"):
        gradient.sum().backward()
