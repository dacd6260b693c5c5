"""Window attention under torch.compile and torch.export: one graph, the same values."""

from __future__ import annotations

import shutil

import pytest
import torch
from comparison import Run, assert_as_exact_as, assert_close, upstream
from torch import Tensor, nn
from window_cases import Case, run

from attnzoo.kernels import window_attention

# without a C++ compiler the graphs are still captured and differentiated ahead of time
COMPILER = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"
# for values near 1 that are computed in another order
ROUNDING = 1e-5
CASES = [
    Case("bias", (8, 12), 4),
    Case("ragged, shift", (10, 13), (4, 5), shift=(1, 3)),
    Case("one window", (5, 6), (5, 6), has_bias=False),
]

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def check_compiled(case: Case, backend: str, compiler: str) -> None:
    inputs = case.inputs(torch.float32)
    plain = run(case, inputs, "reference")
    truth = run(case, inputs, "reference", torch.float64)

    @torch.compile(fullgraph=True, backend=compiler)
    def call(tensors: dict[str, Tensor]) -> Tensor:
        return window_attention(**tensors, **case.arguments, backend=backend)

    out = call(inputs)
    grads = torch.autograd.grad(out, list(inputs.values()), upstream(out))
    found = Run(dict(zip(truth.tensors, (out.detach(), *grads), strict=True)))
    assert_as_exact_as(found, plain, truth, torch.float32)


def test_compiled() -> None:
    check_compiled(CASES[1], "eager", COMPILER)


@pytest.mark.parametrize("backend", ["reference", "eager"])
@cases
def test_captured_in_one_graph(case: Case, backend: str) -> None:
    check_compiled(case, backend, "aot_eager")


def test_one_compiled_graph_serves_several_map_sizes() -> None:
    compiled = torch.compile(window_attention, fullgraph=True, backend="aot_eager")
    for size in ((7, 9), (10, 8), (12, 15)):
        q = torch.randn(1, *size, 2, 4)
        assert_close("output", compiled(q, q, q, 4, shift=2), window_attention(q, q, q, 4, shift=2), ROUNDING)


class Attention(nn.Module):
    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case
        self.table = nn.Parameter(torch.randn(case.heads, *(2 * window - 1 for window in case.windows)))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return window_attention(q, k, v, **self.case.arguments, bias=self.table)


@cases
def test_export_with_a_dynamic_batch(case: Case) -> None:
    module = Attention(case).eval()
    inputs = case.inputs(torch.float32)
    example = tuple(inputs[name].detach() for name in "qkv")
    batch = torch.export.Dim("batch")
    program = torch.export.export(module, example, dynamic_shapes={name: {0: batch} for name in "qkv"})
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert all(target.startswith("aten.") for target in targets), targets
    for images in (1, 2, 5):
        q = torch.randn(images, *case.size, case.heads, case.width)
        with torch.no_grad():
            assert_close(f"output at batch {images}", program.module()(q, q, q), module(q, q, q), ROUNDING)


def test_a_plan_first_made_while_tracing_serves_later_calls() -> None:
    # sizes that no other test has, so that every plan here is new
    class Mixer(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return window_attention(q, q, q, 6, shift=5)

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
        assert_close(f"width {width}", out, window_attention(x, x, x, 6, shift=5, backend="reference"), ROUNDING)
    assert_close("exported", exported(q), Mixer()(q), ROUNDING)


@pytest.mark.parametrize("size", [(4, 4), (9, 11)], ids=["one window", "many windows"])
def test_exported_graph_decomposes(size: tuple[int, int]) -> None:
    class Mixer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            q, k, v = x.unflatten(-1, (3, 2, 4)).unbind(3)
            return window_attention(q, k, v, 4, shift=0 if size == (4, 4) else 1).flatten(3)

    x = torch.randn(2, *size, 24)
    batch = torch.export.Dim("batch", max=64)
    program = torch.export.export(Mixer(), (x,), dynamic_shapes=({0: batch},), strict=False)
    other = torch.randn(3, *size, 24)
    assert_close("decomposed", program.run_decompositions().module()(other), Mixer()(other), ROUNDING)
