"""The operators under the transforms of torch.func, forward-mode differentiation and batched gradients."""

from __future__ import annotations

import pytest
import torch
from comparison import assert_close
from operator_examples import EXAMPLES, PLAIN, Example
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, jacrev, jvp, vmap

from attnzoo.kernels import explain, packed_neighborhood_attention
from tests.tiers import quick

Tensors = dict[str, Tensor]

# one of each operator, and eager's other ways
WAYS = {"one tile", "one window", "gathered", "all regions, packed", "without tables, packed", "strided, causal rows"}
examples = pytest.mark.parametrize(
    "example", quick([*PLAIN, *EXAMPLES], [*PLAIN, *(x for x in EXAMPLES if x.case.name in WAYS)])
)
plain_examples = pytest.mark.parametrize("example", PLAIN, ids=str)


def inputs_of(example: Example) -> Tensors:
    return {name: x.detach() for name, x in example.inputs(torch.float64).items()}


def output(example: Example, inputs: Tensors, routes: Tensors, backend: str = "eager") -> Tensor:
    out = example.function(**inputs, **routes, **example.arguments, backend=backend)
    # a causal window's missing scores are constants
    return out.masked_fill(out.isinf(), 0)


def loss(example: Example, inputs: Tensors, routes: Tensors, backend: str = "eager") -> Tensor:
    return output(example, inputs, routes, backend).sin().sum()


def true_gradients(example: Example, inputs: Tensors, routes: Tensors) -> Tensors:
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    return dict(
        zip(leaves, torch.autograd.grad(loss(example, leaves, routes, "reference"), list(leaves.values())), strict=True)
    )


def assert_all_close(found: Tensors, true: Tensors) -> None:
    for name, x in true.items():
        assert_close(name, found[name], x, 1e-11 * max(1.0, x.abs().max().item()))


@examples
def test_grad(example: Example) -> None:
    inputs, routes = inputs_of(example), example.routes()
    assert_all_close(grad(lambda x: loss(example, x, routes))(inputs), true_gradients(example, inputs, routes))


@examples
def test_gradients_of_every_sample(example: Example) -> None:
    inputs, routes = inputs_of(example), example.routes()
    tables = {name: inputs.pop(name) for name in example.tables}

    def of_sample(maps: Tensors, tables: Tensors, routes: Tensors) -> Tensor:
        one, its_routes = ({name: x.unsqueeze(0) for name, x in given.items()} for given in (maps, routes))
        return loss(example, {**one, **tables}, its_routes)

    # an empty dictionary has no axis to map over
    dims = 0, None, 0 if routes else None
    of_maps, of_tables = vmap(grad(of_sample, argnums=(0, 1)), in_dims=dims)(inputs, tables, routes)
    for i in range(len(next(iter(inputs.values())))):
        one, its_routes = ({name: x[i : i + 1] for name, x in given.items()} for given in (inputs, routes))
        true = true_gradients(example, {**one, **tables}, its_routes)
        found = {name: x[i : i + 1] for name, x in of_maps.items()} | {name: x[i] for name, x in of_tables.items()}
        assert_all_close(found, true)


@examples
def test_tangents(example: Example) -> None:
    inputs, routes = inputs_of(example), example.routes()
    tangents = {name: torch.randn_like(x) for name, x in inputs.items()}
    _, true = jvp(lambda x: output(example, x, routes, "reference"), (inputs,), (tangents,))
    _, found = jvp(lambda x: output(example, x, routes), (inputs,), (tangents,))
    assert_close("jvp", found, true, 1e-11)
    for needs_gradient in (False, True):
        with forward_ad.dual_level():
            dual = {
                name: forward_ad.make_dual(x.clone().requires_grad_(needs_gradient), tangents[name])
                for name, x in inputs.items()
            }
            found = forward_ad.unpack_dual(output(example, dual, routes)).tangent
            assert found is not None
            assert_close("tangent", found, true, 1e-11)


@plain_examples
def test_jacobians(example: Example) -> None:
    inputs, routes = inputs_of(example), example.routes()
    name = next(iter(inputs))

    def some(x: Tensor, backend: str = "eager") -> Tensor:
        return output(example, {**inputs, name: x}, routes, backend).flatten()[::29]

    true = torch.autograd.functional.jacobian(lambda x: some(x, "reference"), inputs[name])
    assert_close("jacrev", jacrev(some)(inputs[name]), true, 1e-11)
    x = inputs[name].clone().requires_grad_()
    out = some(x)
    every = torch.eye(len(out), dtype=torch.float64)
    for create_graph in (False, True):
        (found,) = torch.autograd.grad(
            out, x, every, is_grads_batched=True, retain_graph=True, create_graph=create_graph
        )
        assert_close("batched gradients", found, true, 1e-11)
    found = vmap(lambda gradient: torch.autograd.grad(out, x, gradient)[0])(every)
    assert_close("gradients under vmap", found, true, 1e-11)


def test_batched_gradients_of_overlapping_tiles() -> None:
    x = torch.randn(1, 5, 6, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    out = {name: packed_neighborhood_attention(x, 3, backend=name) for name in ("reference", "eager")}
    every = torch.randn(2, *out["eager"].shape, dtype=torch.float64)
    (found,) = torch.autograd.grad(out["eager"], x, every, is_grads_batched=True)
    true = torch.stack([torch.autograd.grad(out["reference"], x, dout, retain_graph=True)[0] for dout in every])
    assert_close("batched gradients", found, true, 1e-11)


@pytest.mark.usefixtures("quick_interpreter")
@plain_examples
def test_kernels_are_refused(example: Example) -> None:
    inputs, routes = {name: x.float() for name, x in inputs_of(example).items()}, example.routes()
    refused = pytest.raises(ValueError, match="no rule for the transforms")
    with refused:
        grad(lambda x: loss(example, x, routes, "triton"))(inputs)
    with forward_ad.dual_level(), refused:
        loss(example, {name: forward_ad.make_dual(x, x) for name, x in inputs.items()}, routes, "triton")


def test_the_choice_on_a_gpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnzoo.kernels.backends._capability", lambda index: (9, 0))
    monkeypatch.setattr("attnzoo.kernels.backends._is_triton_installed", lambda: True)
    x = torch.zeros(1)
    monkeypatch.setattr(Tensor, "device", torch.device("cuda", 0))
    with forward_ad.dual_level():
        choice = explain(PLAIN[0].function, x)
    assert choice.backend == "eager"
    assert "forward-mode differentiation" in choice.reason
    assert explain(PLAIN[0].function, x).backend == "triton"
