"""The contract of the operators: derivatives, dtypes, autocast and torch.library, of every one in every execution."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from comparison import assert_as_exact_as, assert_close, upstream
from operator_examples import EXAMPLES, PLAIN, TINY, Example
from torch import Tensor

from attnzoo.kernels import halo_attention, selective_scan
from tests.tiers import quick

examples = pytest.mark.parametrize("example", EXAMPLES, ids=str)
plain_examples = pytest.mark.parametrize("example", PLAIN, ids=str)
kernels = pytest.mark.usefixtures("quick_interpreter")


@pytest.fixture(params=["eager", "triton"])
def backend(request: pytest.FixtureRequest) -> str:
    """The executions that are compared with the reference."""
    if request.param == "triton":
        request.getfixturevalue("quick_interpreter")
    return request.param


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@examples
def test_half_precision(example: Example, dtype: torch.dtype) -> None:
    inputs, *others = (example.inputs(dtype) for _ in range(4))
    (plain, truth), *more = (
        (example.run(draw, "reference"), example.run(draw, "reference", torch.float64)) for draw in (inputs, *others)
    )
    assert_as_exact_as(example.run(inputs, "eager"), plain, truth, dtype, more)


@pytest.mark.parametrize("example", [x for x in EXAMPLES if x.is_attention], ids=str)
def test_gradients_of_scores_beyond_float16(example: Example) -> None:
    """As with `scaled_dot_product_attention`, scores may be larger than the largest float16 number."""
    inputs = example.inputs(torch.float16)
    for name in ("q", "k"):
        inputs[name] = (300 * inputs[name].detach().sign() + inputs[name].detach()).requires_grad_()
    for create_graph in (False, True):
        out = example(inputs, "eager")
        # small, because the gradient of a table is a sum over all queries
        dout = upstream(out) / 256
        gradients = torch.autograd.grad(out, list(inputs.values()), dout, create_graph=create_graph)
        assert out.isfinite().all()
        assert all(x.isfinite().all() for x in gradients)
    if example.function is halo_attention and example.tables:
        # the relative scores are float16 numbers, rounded by half a unit
        return
    truth = example.run(inputs, "reference", torch.float64).tensors["gradient of v"]
    size = truth.abs().max().item()
    assert_close("gradient of v", gradients[list(inputs).index("v")] * 256, truth, 0.01 * size)


@examples
def test_a_nan_reaches_its_queries_and_no_other_image(example: Example) -> None:
    example = example.of_batch(2)
    inputs = {name: x.detach() for name, x in example.inputs(torch.float32).items()}
    # a scan has steps and heads in the place of rows and columns
    inputs[list(inputs)[1]][(0, 0, 0) if example.function is selective_scan else (0, 1, 2)] = torch.nan
    ours, true = (example(inputs, backend).isnan() for backend in ("eager", "reference"))
    assert true[0].any()
    assert ours[true].all()
    assert not ours[1].any()


@pytest.mark.parametrize("backend", ["reference", "eager"])
@examples
def test_changed_inputs_raise(example: Example, backend: str) -> None:
    check_changed_inputs(example, backend)


@kernels
@pytest.mark.parametrize("example", quick(PLAIN, PLAIN[-1:]))
def test_changed_inputs_of_kernels_raise(example: Example) -> None:
    check_changed_inputs(example, "triton")


def check_changed_inputs(example: Example, backend: str) -> None:
    inputs, routes = example.inputs(torch.float32), example.routes()
    for x in (*inputs.values(), *routes.values()):
        out = example.function(**inputs, **routes, **example.arguments, backend=backend)
        with torch.no_grad():
            x.mul_(1)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            out.backward(upstream(out))


@examples
def test_float64(example: Example) -> None:
    inputs = example.inputs(torch.float64)
    truth, ours = (example.run(inputs, backend) for backend in ("reference", "eager"))
    for name, true in truth.tensors.items():
        assert_close(name, ours.tensors[name], true, 1e-13 * max(1, true[true.isfinite()].abs().max().item()))


@examples
def test_forward_without_gradients_is_the_same(example: Example) -> None:
    inputs = example.inputs(torch.float32)
    with_gradients = example(inputs)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert_close("output", example(inputs), with_gradients, 0)


@examples
def test_autocast(example: Example) -> None:
    check_autocast(example, "eager")


@kernels
@plain_examples
def test_autocast_of_kernels(example: Example) -> None:
    check_autocast(example, "triton")


def check_autocast(example: Example, backend: str) -> None:
    inputs = example.inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = example(inputs, backend)
    halves = {
        name: (x.detach() if name in example.kept else x.detach().bfloat16()).requires_grad_()
        for name, x in inputs.items()
    }
    want = example(halves, backend)
    assert out.dtype == torch.bfloat16
    assert_close("output", out, want, 0)
    gradient = upstream(out)
    out.backward(gradient)
    want.backward(gradient)
    for name, x in inputs.items():
        assert x.grad.dtype == torch.float32
        assert_close(f"gradient of {name}", x.grad, halves[name].grad, 0)


@plain_examples
def test_autocast_leaves_float64_alone(example: Example) -> None:
    inputs = example.inputs(torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        out = example(inputs)
        out.sum().backward()
    assert out.dtype == torch.float64


@pytest.mark.parametrize("example", [x for x in PLAIN if x.tables], ids=str)
def test_a_float32_table_serves_half_precision_queries(example: Example, backend: str) -> None:
    inputs = example.inputs(torch.bfloat16)
    tables = {name: inputs[name].detach().float().requires_grad_() for name in example.tables}
    out = example({**inputs, **tables}, backend)
    assert_close("output", out, example(inputs, backend), 0)
    out.sum().backward()
    assert all(table.grad.dtype == torch.float32 for table in tables.values())


@plain_examples
def test_gradients_of_some_inputs_alone(example: Example, backend: str) -> None:
    inputs = example.inputs(torch.float32)
    every = example.run(inputs, backend)
    names = list(inputs)
    for wanted in (*((name,) for name in names), (names[0], names[-1])):
        some = {name: x.detach().requires_grad_(name in wanted) for name, x in inputs.items()}
        out = example(some, backend)
        out.backward(upstream(out))
        for name, x in some.items():
            if name in wanted:
                assert_close(f"gradient of {name}", x.grad, every.tensors[f"gradient of {name}"], 0)
            else:
                assert x.grad is None


@plain_examples
def test_an_expanded_gradient_is_read(example: Example, backend: str) -> None:
    inputs = example.inputs(torch.float32)
    found = []
    for execution in (backend, "reference"):
        out = example(inputs, execution)
        # a causal window's missing scores are constants
        out = out.masked_fill(out.isinf(), 0)
        found.append(torch.autograd.grad(out.sum(), list(inputs.values())))
    for ours, true in zip(*found, strict=True):
        assert_close("gradient", ours, true, 1e-5)


@plain_examples
def test_tensors_that_torch_negates_when_they_are_read(example: Example, backend: str) -> None:
    inputs = {name: x.detach() for name, x in example.inputs(torch.float32).items()}
    true = example(inputs, "reference")
    lazy = {name: torch._neg_view(-x).requires_grad_() for name, x in inputs.items()}
    assert all(x.is_neg() for x in lazy.values())
    out = example(lazy, backend)
    assert_close("output", out, true, 1e-5)
    dout = torch.randn_like(out)
    # scores that a causal window leaves out have no gradient
    dout[out.isinf()] = 0
    wanted = list(lazy.values())
    found = torch.autograd.grad(out, wanted, torch._neg_view(-dout), retain_graph=True)
    for ours, same in zip(found, torch.autograd.grad(out, wanted, dout), strict=True):
        assert_close("gradient", ours, same, 1e-6)


@plain_examples
def test_every_run_is_the_same(example: Example, backend: str) -> None:
    inputs = example.inputs(torch.float32)
    first, second = (example.run(inputs, backend) for _ in range(2))
    assert all(torch.equal(x, second.tensors[name]) for name, x in first.tensors.items())


def finite(example: Example, names: list[str], backend: str) -> Callable[..., Tensor]:
    def call(*tensors: Tensor) -> Tensor:
        out = example(dict(zip(names, tensors, strict=True)), backend)
        return out.masked_fill(out.isinf(), 0)

    return call


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize("example", TINY, ids=str)
def test_gradcheck(example: Example, backend: str, check: Callable[..., bool]) -> None:
    inputs = example.inputs(torch.float64)
    assert check(finite(example, list(inputs), backend), tuple(inputs.values()))


@examples
def test_gradient_penalty_reaches_the_inputs(example: Example) -> None:
    """A second derivative where the upstream gradient is a constant: it must not silently be zero."""
    inputs = example.inputs(torch.float64)
    ours, truth = (_penalty_gradients(example, inputs, backend) for backend in ("eager", "reference"))
    for name, found, true in zip(inputs, ours, truth, strict=True):
        assert_close(f"second gradient of {name}", found, true, 1e-10 * true.abs().max().item())


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("example", [x for x in PLAIN if x.is_attention], ids=str)
def test_values_that_are_made_of_the_keys(example: Example, create_graph: bool) -> None:
    inputs = example.inputs(torch.float64)
    keys = inputs["k"]
    for values in (keys, keys.sin()):
        ours, true = (
            torch.autograd.grad(
                example({**inputs, "v": values}, backend).square().sum(),
                keys,
                create_graph=create_graph,
                retain_graph=True,
            )[0]
            for backend in ("eager", "reference")
        )
        assert_close("gradient of the keys", ours, true, 1e-10 * true.abs().max().item())


@kernels
@pytest.mark.parametrize("example", [x for x in PLAIN if not x.is_half], ids=str)
def test_kernels_have_no_second_derivative(example: Example) -> None:
    inputs = example.inputs(torch.float32)
    first = next(iter(inputs.values()))
    (gradient,) = torch.autograd.grad(example(inputs, "triton").square().sum(), first, create_graph=True)
    with pytest.raises(
        NotImplementedError, match=f"{example.function.__name__} have no second derivative: use backend"
    ):
        gradient.sum().backward()


@kernels
@pytest.mark.parametrize("example", [x for x in PLAIN if x.is_half], ids=str)
def test_halves_have_second_derivatives(example: Example) -> None:
    inputs = example.inputs(torch.float32)
    ours, truth = (_penalty_gradients(example, inputs, backend) for backend in ("triton", "reference"))
    for name, found, true in zip(inputs, ours, truth, strict=True):
        assert_close(f"second gradient of {name}", found, true, 1e-4 * true.abs().max().item())


def _penalty_gradients(example: Example, inputs: dict[str, Tensor], backend: str) -> tuple[Tensor, ...]:
    # bent, for the halves are linear in each input
    out = finite(example, list(inputs), backend)(*inputs.values()).tanh()
    gradients = torch.autograd.grad(out.sum(), list(inputs.values()), create_graph=True)
    penalty = torch.stack([gradient.square().sum() for gradient in gradients]).sum()
    return torch.autograd.grad(penalty, list(inputs.values()), materialize_grads=True)


@kernels
@pytest.mark.parametrize("example", quick(PLAIN, PLAIN[-2:]))
def test_opcheck(example: Example) -> None:
    operator, arguments = example.library()
    torch.library.opcheck(operator.default, arguments)
    if example.is_half:
        return
    out, logsumexp = operator(*arguments)
    tensors, rest = [x for x in arguments if isinstance(x, Tensor)], [x for x in arguments if not isinstance(x, Tensor)]
    differentiable = [x for x in tensors if x.is_floating_point()]
    saved = (out, logsumexp) if example.is_attention else (logsumexp,)
    given = [x.detach() for x in (upstream(out), *tensors, *saved)]
    derivative = getattr(torch.ops.attnzoo, f"{example.function.__name__}_backward").default
    for last in (True, False):
        needs = [True] * (len(differentiable) - 1) + [last]
        torch.library.opcheck(derivative, (*given, *rest, needs))
