"""The neighborhood operators on sequences (B, L, heads, width): values, gradients, mistakes, compilers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from comparison import Run, assert_as_exact_as, assert_close, run_function
from neighborhood_cases import OPERATORS
from test_geometry import natten_keys
from torch import Tensor

from attnzoo.kernels import neighborhood_attention, neighborhood_av, neighborhood_qk
from attnzoo.kernels.neighborhood import eager_chunks
from attnzoo.kernels.neighborhood.geometry import Axis
from attnzoo.kernels.neighborhood.plan import best_plan
from tests.tiers import fifth, quick

operators = pytest.mark.parametrize("operator", OPERATORS)


@dataclass(frozen=True)
class Case:
    """A sequence and its neighborhoods."""

    name: str
    length: int
    kernel: int
    dilation: int = 1
    stride: int = 1
    is_causal: bool = False
    batch: int = 2
    heads: int = 2
    width: int = 8
    value_width: int = 6
    has_bias: bool = True

    @property
    def window(self) -> dict[str, Any]:
        return {
            "kernel_size": self.kernel,
            "dilation": self.dilation,
            "stride": self.stride,
            "is_causal": self.is_causal,
        }

    def inputs(self, operator: str, dtype: torch.dtype) -> dict[str, Tensor]:
        shape = self.batch, self.length, self.heads
        q, k, v = (torch.randn(*shape, n) for n in (self.width, self.width, self.value_width))
        tables = {"bias": torch.randn(self.heads, 2 * self.kernel - 1)} if self.has_bias else {}
        tensors = {
            "attention": {"q": q, "k": k, "v": v, **tables},
            "qk": {"q": q, "k": k, **tables},
            "av": {"weights": torch.randn(*shape, self.kernel), "v": v},
        }[operator]
        return {name: x.to(dtype).requires_grad_() for name, x in tensors.items()}


CASES = [
    Case("plain", 37, 5),
    Case("dilation", 41, 4, dilation=3),
    Case("dilation fills the sequence", 24, 6, dilation=4, has_bias=False),
    Case("stride", 30, 6, stride=4),
    Case("causal, dilation", 29, 5, dilation=2, is_causal=True),
    Case("kernel is the sequence", 11, 11),
    Case("kernel 1", 9, 1, has_bias=False),
    Case("batch 0", 12, 3, batch=0),
    Case("long", 300, 64, batch=1, heads=1),
]
cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def run(operator: str, case: Case, inputs: dict[str, Tensor], backend: str, dtype: torch.dtype | None = None) -> Run:
    return run_function(OPERATORS[operator], inputs, {**case.window, "backend": backend}, dtype)


def check(operator: str, case: Case, backend: str) -> None:
    inputs, *others = (case.inputs(operator, torch.float32) for _ in range(3))
    (plain, truth), *more = (
        (run(operator, case, x, "reference"), run(operator, case, x, "reference", torch.float64))
        for x in (inputs, *others)
    )
    assert_as_exact_as(run(operator, case, inputs, backend), plain, truth, torch.float32, more)


@operators
@cases
def test_eager_is_as_exact_as_plain_torch(case: Case, operator: str) -> None:
    check(operator, case, "eager")


@cases
def test_segments_make_no_difference(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FORWARD_SCORES", "BACKWARD_SCORES"):
        monkeypatch.setattr(eager_chunks, name, 64)
    check("attention", case, "eager")


def test_a_long_sequence_is_computed_in_segments() -> None:
    plan = best_plan((2048, 64, 1, 1, False), (1, 1, 1, 1, False), 32 * 1024, "cpu")
    assert plan.rows * plan.queries * plan.keys <= 32 * 1024
    assert len(plan.chunks) * plan.rows * plan.queries == 2048


# an interpreted program takes about 30 ms
SMALL_CASES = [
    Case("dilation", 17, 4, dilation=3, batch=1),
    Case("dilation, stride, causal", 19, 3, dilation=2, stride=2, is_causal=True, batch=1, heads=1),
    Case("plain", 19, 5, batch=1),
]


@pytest.mark.usefixtures("quick_interpreter", "poisoned_allocations")
@pytest.mark.parametrize(("case", "operator"), fifth(SMALL_CASES, OPERATORS))
def test_kernels_are_as_exact_as_plain_torch(case: Case, operator: str) -> None:
    pytest.importorskip("triton")
    check(operator, case, "triton")


@cases
def test_reference_follows_the_geometry(case: Case) -> None:
    """Computes the definition: a loop over queries and their keys."""
    q, k, v, *bias = case.inputs("attention", torch.float64).values()
    out = neighborhood_attention(q, k, v, **case.window, bias=bias[0] if bias else None, backend="reference")
    axis = Axis(case.length, case.kernel, case.dilation, case.stride, case.is_causal)
    for query in range(0, case.length, 5):
        keys = natten_keys(axis, query)
        scores = torch.einsum("bhd,bkhd->bhk", q[:, query], k[:, keys]) * case.width**-0.5
        if bias:
            scores = scores + bias[0][:, [(key - query) // case.dilation + case.kernel - 1 for key in keys]]
        want = torch.einsum("bhk,bkhe->bhe", scores.softmax(-1), v[:, keys])
        assert_close(f"output at {query}", out[:, query], want, 1e-13)


def test_the_halves_make_the_whole() -> None:
    case = Case("plain", 31, 4, dilation=2, stride=3)
    q, k, v, bias = case.inputs("attention", torch.float64).values()
    weights = neighborhood_qk(q, k, **case.window, bias=bias).softmax(-1)
    assert weights.shape == (2, 31, 2, 4)
    whole = neighborhood_attention(q, k, v, **case.window, bias=bias)
    assert_close("output", neighborhood_av(weights, v, **case.window), whole, 1e-14)


def test_padding_is_attended_to() -> None:
    q, k, v = torch.randn(3, 1, 4, 2, 3)
    key, value = torch.randn(2, 2, 3)
    out = neighborhood_attention(q, k, v, 7, padding=(key, value))
    k, v = (torch.cat([x, token.expand(1, 3, 2, 3)], 1) for x, token in ((k, key), (v, value)))
    assert_close("output", out, neighborhood_attention(torch.cat([q, q[:, :3]], 1), k, v, 7)[:, :4], 1e-6)


ROWS = torch.zeros(2, 9, 3, 4)
PLAIN = {"q": ROWS, "k": ROWS, "v": ROWS, "kernel_size": 3}


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"kernel_size": 11}, ValueError, "kernel_size * dilation must not exceed the sequence, 9, got 11 * 1: use a"),
        ({"dilation": 4}, ValueError, "use a smaller window, or pad the sequence"),
        ({"kernel_size": 0}, ValueError, "kernel_size must be at least 1, got 0"),
        ({"kernel_size": (3, 3)}, ValueError, "kernel_size must be one int for a sequence, got 2 values"),
        ({"kernel_size": 3.0}, TypeError, "kernel_size must be one int for a sequence, got 3.0"),
        ({"stride": 4}, ValueError, "stride must be between 1 and kernel_size, 3, got 4"),
        ({"is_causal": (True, False)}, ValueError, "is_causal must be one bool for a sequence, got 2 values"),
        ({"k": ROWS[:, 1:]}, ValueError, "k must have the batch, sequence and heads of q, (2, 9, 3), got (2, 8, 3)"),
        ({"k": ROWS[..., :2]}, ValueError, "k must have the width of q, 4, got 2"),
        ({"v": ROWS.double()}, TypeError, "v must have the dtype of q, torch.float32, got torch.float64"),
        ({"v": ROWS[0]}, ValueError, "q must have five axes (B, H, W, heads, width), got (2, 9, 3, 4)"),
        (
            {"bias": torch.zeros(3, 4)},
            ValueError,
            "bias must be a table (heads, 2 * kernel_size - 1) = (3, 5) for a window of 3, got (3, 4)",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes_speak_of_the_sequence(changes: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as found:
        neighborhood_attention(**{**PLAIN, **changes})
    assert not re.search(r"column|axis \d", str(found.value))


def test_weights_for_another_window() -> None:
    message = "one entry for each of the 5 keys of a window, (B, L, heads, 5), got (2, 9, 3, 3)"
    with pytest.raises(ValueError, match=re.escape(message)):
        neighborhood_av(ROWS[..., :3], ROWS, 5)


def test_autocast() -> None:
    case = Case("plain", 20, 3)
    q, k, v, bias = case.inputs("attention", torch.float32).values()
    with torch.autocast("cpu", torch.bfloat16):
        out = neighborhood_attention(q, k, v, **case.window, bias=bias)
        weights = neighborhood_qk(q, k, **case.window, bias=bias).softmax(-1)
        halves = neighborhood_av(weights, v, **case.window)
    assert out.dtype == halves.dtype == torch.bfloat16
    whole = neighborhood_attention(q, k, v, **case.window, bias=bias)
    for name, ours in (("attention", out), ("halves", halves)):
        assert_close(name, ours, whole, 0.05)


@pytest.mark.parametrize("operator", quick(OPERATORS, ["qk"]))
def test_captured_in_one_graph(operator: str) -> None:
    torch._dynamo.reset()
    case = Case("plain", 23, 4, dilation=2)
    inputs = case.inputs(operator, torch.float32)
    compiled = torch.compile(OPERATORS[operator], fullgraph=True, backend="aot_eager")
    for name, want in run(operator, case, inputs, "eager").tensors.items():
        ours = run_function(compiled, inputs, {**case.window, "backend": "eager"}, None).tensors[name]
        assert_close(name, ours, want, 1e-5)


class Attend(torch.nn.Module):
    def forward(self, q: Tensor) -> Tensor:
        return neighborhood_attention(q, q, q, 5, dilation=2)


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed", "dynamic length"])
def test_exported(dynamic: bool) -> None:
    q = torch.randn(2, 24, 2, 4)
    sizes = {"q": {1: torch.export.Dim("length", min=12, max=64)}} if dynamic else None
    program = torch.export.export(Attend(), (q,), dynamic_shapes=sizes)
    for length in (24, 31) if dynamic else (24,):
        q = torch.randn(2, length, 2, 4)
        assert_close("output", program.module()(q), Attend()(q), 1e-6)
