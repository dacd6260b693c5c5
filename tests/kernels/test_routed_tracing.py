"""Routed attention under torch.compile and torch.export: one graph, the same values."""

from __future__ import annotations

import shutil

import pytest
import torch
from comparison import Run, assert_as_exact_as, assert_close, upstream
from routed_cases import Case, runs
from torch import Tensor, nn

from attnzoo.kernels import routed_attention

# without a C++ compiler the graphs are still captured and differentiated ahead of time
COMPILER = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"
# for values near 1 that are computed in another order
ROUNDING = 1e-5
CASES = [
    Case("masked", (8, 12), (2, 3), 3, routing="repeated"),
    Case("gathered", (36, 30), 6, 4, batch=2, heads=2),
    Case("one region", (6, 5), 1, 1),
]

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def check_compiled(case: Case, backend: str, compiler: str) -> None:
    torch.manual_seed(0)
    _, plain, truth, more = runs(case, torch.float32, "reference")
    torch.manual_seed(0)
    inputs, routes = case.inputs(torch.float32), case.routes()

    @torch.compile(fullgraph=True, backend=compiler)
    def call(tensors: dict[str, Tensor], routes: Tensor) -> Tensor:
        return routed_attention(**tensors, routes=routes, regions=case.regions, backend=backend)

    out = call(inputs, routes)
    grads = torch.autograd.grad(out, list(inputs.values()), upstream(out))
    found = Run(dict(zip(truth.tensors, (out.detach(), *grads), strict=True)))
    assert_as_exact_as(found, plain, truth, torch.float32, more)


@cases
def test_compiled(case: Case) -> None:
    check_compiled(case, "eager", COMPILER)


@pytest.mark.parametrize("backend", ["reference", "eager"])
@cases
def test_captured_in_one_graph(case: Case, backend: str) -> None:
    check_compiled(case, backend, "aot_eager")


def test_compiled_inference() -> None:
    case = CASES[0]
    inputs, routes = {name: x.detach() for name, x in case.inputs(torch.float32).items()}, case.routes()
    compiled = torch.compile(routed_attention, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found, want = (f(**inputs, routes=routes, regions=case.regions) for f in (compiled, routed_attention))
    assert_close("output", found, want, ROUNDING)


def test_one_compiled_graph_serves_several_map_sizes() -> None:
    compiled = torch.compile(routed_attention, fullgraph=True, backend="aot_eager")
    for size in ((6, 9), (12, 6), (9, 15), (48, 60)):
        q, routes = torch.randn(1, *size, 2, 4), torch.randint(9, (1, 9, 2))
        assert_close("output", compiled(q, q, q, routes, 3), routed_attention(q, q, q, routes, 3), ROUNDING)


class Attention(nn.Module):
    """Calls routed attention as a model does: routes are computed from the queries and keys."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        rows, columns = self.case.regions if isinstance(self.case.regions, tuple) else (self.case.regions,) * 2
        means = [
            x.unflatten(2, (columns, -1)).unflatten(1, (rows, -1)).mean((2, 4)).flatten(3).flatten(1, 2) for x in (q, k)
        ]
        routes = (means[0] @ means[1].mT).topk(self.case.topk).indices
        return routed_attention(q, k, v, routes, self.case.regions)


@cases
def test_export_with_a_dynamic_batch(case: Case) -> None:
    module = Attention(case).eval()
    example = tuple(x.detach() for x in case.inputs(torch.float32).values())
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, example, dynamic_shapes={name: {0: batch} for name in "qkv"})
    for images in (1, 2, 5):
        q = torch.randn(images, *case.size, case.heads, case.width)
        with torch.no_grad():
            assert_close(f"output at batch {images}", program.module()(q, q, q), module(q, q, q), ROUNDING)


@cases
def test_exported_graph_is_ordinary_operators(case: Case) -> None:
    example = tuple(x.detach() for x in case.inputs(torch.float32).values())
    program = torch.export.export(Attention(case).eval(), example)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    targets -= {"<built-in function getitem>"}
    assert all(target.startswith("aten.") for target in targets), targets


@cases
def test_exported_graph_decomposes(case: Case) -> None:
    example = tuple(x.detach() for x in case.inputs(torch.float32).values())
    batch = torch.export.Dim("batch", max=64)
    dynamic = {name: {0: batch} for name in "qkv"}
    program = torch.export.export(Attention(case).eval(), example, dynamic_shapes=dynamic, strict=False)
    q = torch.randn(3, *case.size, case.heads, case.width)
    assert_close("decomposed", program.run_decompositions().module()(q, q, q), Attention(case)(q, q, q), ROUNDING)
