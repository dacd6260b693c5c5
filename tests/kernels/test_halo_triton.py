"""The Triton kernels of halo attention in Triton's interpreter, compared with the reference in float64."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import torch
from comparison import assert_close, assert_draws, upstream
from halo_cases import CASES, Case, random_case, run
from torch import Tensor

triton = pytest.importorskip("triton")

from attnzoo.kernels import halo_attention  # noqa: E402
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


@pytest.mark.parametrize("case", SMALL_CASES, ids=lambda case: case.name)
def test_triton_is_as_exact_as_plain_torch(case: Case) -> None:
    check(case)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("case", SMALL_CASES[:3], ids=lambda case: case.name)
def test_half_precision(case: Case, dtype: torch.dtype) -> None:
    check(case, dtype)


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = random.Random(-seed)
    constants = {"TILE": generator.choice([16, 32]), "CHUNK": generator.choice([16, 32, 64])}
    monkeypatch.setattr(triton_kernels, "configuration", lambda *_: Configuration(constants))
    torch.manual_seed(seed)
    check(random_case(seed, 9))


PLAIN = Case("plain", (5, 6), 4, 1, stride=2, batch=2, heads=2, value_width=5)


def arguments_of(inputs: dict[str, Tensor]) -> tuple[Any, ...]:
    """Returns the arguments of the internal operator: relative scores instead of tables."""
    q, k, v = (inputs[name] for name in "qkv")
    row_scores, column_scores = (torch.randn(*q.shape[:4], 6, requires_grad=True) for _ in range(2))
    return q, k, v, row_scores, column_scores, [4, 4], [1, 1], [2, 2], 0.3


def test_opcheck() -> None:
    torch.library.opcheck(torch.ops.attnzoo.halo_attention.default, arguments_of(PLAIN.inputs(torch.float32)))


def test_opcheck_of_the_derivative() -> None:
    arguments = arguments_of(PLAIN.inputs(torch.float32))
    out, logsumexp = torch.ops.attnzoo.halo_attention(*arguments)
    tensors = [x.detach() for x in (upstream(out), *arguments[:5], out, logsumexp)]
    torch.library.opcheck(torch.ops.attnzoo.halo_attention_backward.default, (*tensors, *arguments[5:], [True] * 5))


def test_compiles_as_one_graph() -> None:
    inputs = PLAIN.inputs(torch.float32)

    def call(**tensors: Tensor) -> Tensor:
        return halo_attention(**tensors, **PLAIN.arguments, backend="triton")

    found = []
    for function in (call, torch.compile(call, fullgraph=True, backend="aot_eager")):
        out = function(**inputs)
        found.append([out, *torch.autograd.grad(out, list(inputs.values()), upstream(out))])
    for ours, true in zip(*found, strict=True):
        assert_close("compiled", ours, true, 1e-6)


def test_every_run_is_the_same() -> None:
    inputs = PLAIN.inputs(torch.float32)
    first, second = (run(PLAIN, inputs, "triton") for _ in range(2))
    assert all(torch.equal(x, second.tensors[name]) for name, x in first.tensors.items())


@pytest.mark.parametrize("name", ["q", "k", "v", "rel_rows"])
def test_gradient_of_one_input_alone(name: str) -> None:
    inputs = PLAIN.inputs(torch.float32)
    alone = {other: x.detach().requires_grad_(other == name) for other, x in inputs.items()}
    out = halo_attention(**alone, **PLAIN.arguments, backend="triton")
    out.backward(upstream(out))
    every = run(PLAIN, inputs, "triton").tensors[f"gradient of {name}"]
    assert_close(f"gradient of {name}", alone[name].grad, every, 1e-6)


def test_second_derivative_is_refused() -> None:
    inputs = PLAIN.inputs(torch.float32)
    out = halo_attention(**inputs, **PLAIN.arguments, backend="triton")
    (gradient,) = torch.autograd.grad(out.square().sum(), inputs["q"], create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative: use backend='eager'"):
        gradient.sum().backward()
