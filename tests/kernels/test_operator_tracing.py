"""The contract of the operators under torch.compile and torch.export: one graph, the same values."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from itertools import groupby

import pytest
import torch
from comparison import Run, assert_as_exact_as, assert_close, upstream
from operator_examples import EXAMPLES, PLAIN, Example
from torch import Tensor, nn

from attnzoo.kernels import (
    halo_attention,
    neighborhood_attention,
    neighborhood_av,
    neighborhood_bias,
    neighborhood_qk,
    routed_attention,
    selective_scan,
    window_attention,
)
from tests.tiers import fifth, quick

# without a C++ compiler the graphs are still captured and differentiated ahead of time
COMPILER = "inductor" if shutil.which("g++") or shutil.which("clang++") else "aot_eager"
# of values near 1, computed in another order
ROUNDING = 1e-5
MAPS = (7, 9), (10, 8), (12, 15)

examples = pytest.mark.parametrize("example", EXAMPLES, ids=str)
# a compilation takes seconds: the first two examples of every operator
COMPILED = [x for _, group in groupby(EXAMPLES, lambda x: x.function) for x in list(group)[:2] if not x.is_half]


def in_neighborhoods(q: Tensor) -> Tensor:
    return neighborhood_attention(q, q, q, 3)


def in_halves(q: Tensor) -> Tensor:
    return neighborhood_av(neighborhood_qk(q, q, 3, stride=2).softmax(-1), q, 3, stride=2)


def in_small_maps(q: Tensor) -> Tensor:
    """Maps of a dynamic length that is less than the window: the tokens that pad them and the table are learned too."""
    small = q[:, :5]
    table = q[0, 0, 0, 0, 0] * torch.arange(2 * 11 * 7, device=q.device).view(2, 11, 7)
    tokens = q[0, 0, 0], q[0, 0, 1]
    return neighborhood_attention(small, small, small, (6, 4), dilation=(1, 2), bias=table, padding=tokens)


def by_table(q: Tensor) -> Tensor:
    """Weights that are computed from a table only."""
    bias = neighborhood_bias(q[0, 0, 0, 0, 0] * torch.ones(2, 5, 3), (q.shape[1], q.shape[2]))
    return neighborhood_av(bias.softmax(-1).expand(len(q), -1, -1, -1, -1), q, (3, 2))


def in_sequences(q: Tensor) -> Tensor:
    q = q.flatten(1, 2)
    return neighborhood_attention(q, q, q, 5, is_causal=True)


def in_windows(q: Tensor) -> Tensor:
    return window_attention(q, q, q, 6, shift=5)


def in_halos(q: Tensor) -> Tensor:
    return halo_attention(q, q, q, 4, 1)


def in_regions(q: Tensor) -> Tensor:
    """The way a model calls it: routes found from the queries."""
    means = q.unflatten(2, (3, -1)).unflatten(1, (3, -1)).mean((2, 4)).flatten(3).flatten(1, 2)
    return routed_attention(q, q, q, (means @ means.mT).topk(2).indices, 3)


def in_scans(q: Tensor) -> Tensor:
    u = q.flatten(1, 2)
    return selective_scan(u, u.sigmoid(), -q[0, 0, 0].unsqueeze(2).exp(), u[..., :1], u[..., 1:2])


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def check_compiled(example: Example, backend: str, compiler: str) -> None:
    inputs, *others = (example.inputs(torch.float32) for _ in range(4))
    (plain, truth), *more = (
        (example.run(draw, "reference"), example.run(draw, "reference", torch.float64)) for draw in (inputs, *others)
    )
    found = dict(zip(truth.tensors, compiled(example, inputs, backend, compiler), strict=True))
    assert_as_exact_as(Run(found), plain, truth, torch.float32, more)


def compiled(example: Example, inputs: dict[str, Tensor], backend: str, compiler: str) -> list[Tensor]:
    """The output and the gradients of all inputs."""
    routes = example.routes()

    @torch.compile(fullgraph=True, backend=compiler)
    def call(tensors: dict[str, Tensor], routes: dict[str, Tensor]) -> Tensor:
        return example.function(**tensors, **routes, **example.arguments, backend=backend)

    out = call(inputs, routes)
    return [out.detach(), *torch.autograd.grad(out, list(inputs.values()), upstream(out))]


@pytest.mark.parametrize("example", quick(COMPILED, [x for x in COMPILED if x.case.name == "masked"]))
def test_compiled(example: Example) -> None:
    check_compiled(example, "eager", COMPILER)


@pytest.mark.parametrize(("example", "backend"), fifth(EXAMPLES, ["reference", "eager"]))
def test_captured_in_one_graph(example: Example, backend: str) -> None:
    check_compiled(example, backend, "aot_eager")


@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.parametrize("example", PLAIN, ids=str)
def test_kernels_in_one_graph(example: Example) -> None:
    inputs = example.inputs(torch.float32)
    truth = example.run(inputs, "triton").tensors
    for (name, true), ours in zip(truth.items(), compiled(example, inputs, "triton", "aot_eager"), strict=True):
        # relative scores are made outside of the kernels, in another order
        assert_close(name, ours, true, 1e-6 if example.function is halo_attention else 0)


@examples
def test_compiled_inference(example: Example) -> None:
    inputs = {name: x.detach() for name, x in example.inputs(torch.float32).items()}
    function = torch.compile(example.function, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        found = function(**inputs, **example.routes(), **example.arguments)
        assert_close("output", found, example(inputs), ROUNDING)


@pytest.mark.usefixtures("quick_interpreter")
@pytest.mark.filterwarnings("error:.*lru_cache")
def test_a_choice_of_kernels_is_compiled_without_a_warning() -> None:
    pytest.importorskip("triton")
    x = [torch.randn(1, 4, 4, 1, 16) for _ in range(3)]
    function = torch.compile(partial(window_attention, window_size=2, backend="triton"), backend="eager")
    assert_close("output", function(*x), window_attention(*x, 2), 1e-5)


@pytest.mark.parametrize(
    ("attend", "sizes"),
    [
        (in_neighborhoods, MAPS),
        (in_windows, MAPS),
        (in_halos, MAPS),
        (in_regions, ((6, 9), (12, 6), (9, 15), (48, 60))),
    ],
)
def test_one_compiled_graph_serves_several_map_sizes(
    attend: Callable[[Tensor], Tensor], sizes: tuple[tuple[int, int], ...]
) -> None:
    function = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for size in sizes:
        q = torch.randn(1, *size, 2, 4)
        assert_close("output", function(q), attend(q), ROUNDING)


@pytest.mark.parametrize(
    ("attend", "needs_gradient"),
    [
        # the halves, padding and tables in the quick suite, with gradients
        pytest.param(attend, needs, marks=() if needs and attend in (in_halves, in_small_maps) else pytest.mark.full)
        for attend in (
            in_neighborhoods,
            in_halves,
            in_small_maps,
            by_table,
            in_sequences,
            in_windows,
            in_halos,
            in_regions,
            in_scans,
        )
        for needs in (False, True)
    ],
)
def test_maps_with_dynamic_sides(attend: Callable[[Tensor], Tensor], needs_gradient: bool) -> None:
    function = torch.compile(attend, fullgraph=True, backend="aot_eager")
    for size in ((9, 15), (15, 21), (21, 9)):
        q = torch.randn(2, *size, 2, 4, requires_grad=needs_gradient)
        for axis in (1, 2):
            torch._dynamo.mark_dynamic(q, axis)
        # one graph serves every size that is padded
        with torch._dynamo.config.patch(error_on_recompile=size != (9, 15)):
            out = function(q)
        true = attend(q)
        assert_close("output", out, true, ROUNDING)
        if needs_gradient:
            found, expected = (torch.autograd.grad(x, q, upstream(x))[0] for x in (out, true))
            assert_close("gradient", found, expected, ROUNDING)


class Attention(nn.Module):
    """An operator with tables of its own, as a layer has them."""

    def __init__(self, example: Example) -> None:
        super().__init__()
        inputs = example.inputs(torch.float32)
        self.example = example
        self.maps = [name for name in inputs if name not in example.tables] + list(example.routes())
        self.tables = nn.ParameterDict({name: inputs[name].detach() for name in example.tables})

    def maps_of(self, batch: int) -> tuple[Tensor, ...]:
        """Random maps, and routes, of some images."""
        example = self.example.of_batch(batch)
        tensors = {**example.inputs(torch.float32), **example.routes()}
        return tuple(tensors[name].detach() for name in self.maps)

    def forward(self, *maps: Tensor) -> Tensor:
        """Attends."""
        given = {**dict(zip(self.maps, maps, strict=True)), **self.tables}
        return self.example.function(**given, **self.example.arguments)


@pytest.mark.parametrize(("example", "is_decomposed"), fifth(EXAMPLES, [False, True]))
def test_export_with_a_dynamic_batch(example: Example, is_decomposed: bool) -> None:
    module = Attention(example).eval()
    maps, batch = module.maps_of(2), torch.export.Dim("batch", max=64)
    dynamic = (tuple({0: batch} for _ in maps),)
    program = torch.export.export(module, maps, dynamic_shapes=dynamic, strict=False)
    targets = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    # arithmetic on the number of images is Python's own
    assert [target for target in targets if not target.startswith(("aten.", "<built-in function "))] == []
    if is_decomposed:
        program = program.run_decompositions()
    for images in (1, 2, 5):
        maps = module.maps_of(images)
        with torch.no_grad():
            assert_close(f"output at batch {images}", program.module()(*maps), module(*maps), ROUNDING)


@pytest.mark.parametrize("attend", [in_neighborhoods, in_windows, in_halos])
def test_a_plan_first_made_while_tracing_serves_later_calls(attend: Callable[..., Tensor]) -> None:
    # sizes that no other test has, so that every plan here is new
    class Mixer(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return attend(q)

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
        assert_close(f"width {width}", out, attend(x.detach().double()), ROUNDING)
    assert_close("exported", exported(q), Mixer()(q), ROUNDING)


def test_an_exported_map_with_dynamic_sides_has_one_derivative() -> None:
    class Mixer(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return in_neighborhoods(q)

    sides = {1: torch.export.Dim("height", min=3, max=64), 2: torch.export.Dim("width", min=3, max=64)}
    program = torch.export.export(Mixer(), (torch.randn(2, 9, 15, 2, 4),), dynamic_shapes=(sides,), strict=False)
    q = torch.randn(2, 7, 8, 2, 4, requires_grad=True)
    (found,), (true,) = (
        torch.autograd.grad(attend(q).square().sum(), q, create_graph=True)
        for attend in (program.module(), in_neighborhoods)
    )
    # the gradients are up to 20
    assert_close("gradient", found, true, ROUNDING * float(true.detach().abs().max()))
    with pytest.raises(NotImplementedError, match="neighborhood_attention on a map of dynamic size has no second"):
        found.sum().backward()
