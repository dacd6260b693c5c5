"""The neighborhood operators under torch.compile and torch.export: one graph, the same values."""

from __future__ import annotations

import shutil

import pytest
import torch
from comparison import Run, assert_as_exact_as, assert_close, upstream
from neighborhood_cases import OPERATORS, Case, run
from torch import Tensor, nn

from attnzoo.kernels import neighborhood_attention

# without a C++ compiler the graphs are still captured and differentiated ahead of time
COMPILER = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"
# for values near 1 that are computed in another order
ROUNDING = 1e-5
CASES = [
    Case("ragged tiles, bias", (11, 13), 5),
    Case("dilation, stride, causal rows", (9, 10), 3, dilation=(2, 3), stride=2, is_causal=(True, False)),
]

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def check_compiled(operator: str, case: Case, backend: str, compiler: str) -> None:
    inputs = case.inputs(operator, torch.float32)
    plain = run(operator, case, inputs, "reference")
    truth = run(operator, case, inputs, "reference", torch.float64)

    @torch.compile(fullgraph=True, backend=compiler)
    def call(tensors: dict[str, Tensor]) -> Tensor:
        return OPERATORS[operator](**tensors, **case.window, backend=backend)

    out = call(inputs)
    grads = torch.autograd.grad(out, list(inputs.values()), upstream(out))
    found = Run(dict(zip(truth.tensors, (out.detach(), *grads), strict=True)))
    assert_as_exact_as(found, plain, truth, torch.float32)


@cases
def test_compiled_attention(case: Case) -> None:
    check_compiled("attention", case, "eager", COMPILER)


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("operator", OPERATORS)
@cases
def test_captured_in_one_graph(case: Case, operator: str, backend: str) -> None:
    check_compiled(operator, case, backend, "aot_eager")


def test_compiled_inference() -> None:
    case = CASES[0]
    inputs = {name: x.detach() for name, x in case.inputs("attention", torch.float32).items()}
    compiled = torch.compile(neighborhood_attention, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert_close(
            "output", compiled(**inputs, **case.window), neighborhood_attention(**inputs, **case.window), ROUNDING
        )


def test_one_compiled_graph_serves_several_map_sizes() -> None:
    compiled = torch.compile(neighborhood_attention, fullgraph=True, backend="aot_eager")
    for size in ((7, 9), (10, 8), (12, 15)):
        q = torch.randn(1, *size, 2, 4)
        assert_close("output", compiled(q, q, q, 3), neighborhood_attention(q, q, q, 3), ROUNDING)


class Attention(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.table = nn.Parameter(torch.randn(case.heads, *(2 * kernel - 1 for kernel in case.kernels)))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return neighborhood_attention(q, k, v, **self.case.window, bias=self.table)


@cases
def test_export_with_a_dynamic_batch(case: Case) -> None:
    module = Attention(case).eval()
    inputs = case.inputs("attention", torch.float32)
    example = tuple(inputs[name].detach() for name in "qkv")
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, example, dynamic_shapes={name: {0: batch} for name in "qkv"})
    for images in (1, 2, 5):
        q = torch.randn(images, *case.size, case.heads, case.width)
        with torch.no_grad():
            assert_close(f"output at batch {images}", program.module()(q, q, q), module(q, q, q), ROUNDING)


@cases
def test_exported_graph_is_ordinary_operators(case: Case) -> None:
    inputs = case.inputs("attention", torch.float32)
    program = torch.export.export(Attention(case).eval(), tuple(inputs[name].detach() for name in "qkv"))
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(target.startswith("aten.") for target in targets), targets


def test_a_plan_first_made_while_tracing_serves_later_calls() -> None:
    # sizes that no other test has, so that every plan here is new
    class Mixer(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return neighborhood_attention(q, q, q, 3)

    q = torch.randn(2, 17, 19, 1, 4)
    exported = torch.export.export(Mixer(), (q,), strict=False).module()
    with torch.device("meta"):
        assert Mixer()(torch.randn(1, 17, 21, 1, 4)).shape == (1, 17, 21, 1, 4)
    with torch.inference_mode():
        Mixer()(torch.randn(1, 17, 23, 1, 4))
    for width in (19, 21, 23):
        x = torch.randn(2, 17, width, 1, 4, requires_grad=True)
        out = Mixer()(x)
        out.sum().backward()
        assert_close(f"width {width}", out, neighborhood_attention(x, x, x, 3, backend="reference"), ROUNDING)
    assert_close("exported", exported(q), Mixer()(q), ROUNDING)


@pytest.mark.parametrize("size", [(5, 4), (9, 11)], ids=["one tile", "many tiles"])
def test_exported_graph_decomposes(size: tuple[int, int]) -> None:
    class Mixer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = x.unflatten(-1, (3, 2, 4)).unbind(3)
            return neighborhood_attention(q, k, v, 4).flatten(3)

    x = torch.randn(2, *size, 24)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(Mixer(), (x,), dynamic_shapes=({0: batch},), strict=False)
    other = torch.randn(3, *size, 24)
    assert_close("decomposed", program.run_decompositions().module()(other), Mixer()(other), ROUNDING)
