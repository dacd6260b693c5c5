"""Repeated calls of kernels: the checks of arguments are left out only where nothing could be found.

In the interpreter nothing is prepared, so prepared kernels are functions of torch here; `start_kernels.py` has others.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnzoo.kernels import (
    cache,
    halo_attention,
    neighborhood_attention,
    packed_window_attention,
    routed_attention,
    window_attention,
)
from attnzoo.kernels.repeated import Known

pytest.importorskip("triton")
pytestmark = pytest.mark.usefixtures("quick_interpreter", "alone")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_entries", type(cache._entries)())


OPERATORS = {
    "window": lambda *x, size, backend: window_attention(*x, size, backend=backend),
    "neighborhood": lambda *x, size, backend: neighborhood_attention(*x, size, backend=backend),
    "halo": lambda *x, size, backend: halo_attention(*x, block_size=2, halo=size, backend=backend),
    # a number of its own for each size
    "routed": lambda *x, size, backend: routed_attention(
        *x, torch.zeros(1, 4, 2).long(), regions=2, scale=float(torch.tensor(size).sum()), backend=backend
    ),
}


@pytest.fixture(params=OPERATORS)
def checks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The calls whose arguments were checked."""
    made: list[object] = []
    module = f"attnzoo.kernels.{request.param}.api"
    monkeypatch.setattr(f"{module}.check_same_width", lambda q, k: made.append(q.shape))
    return made


def qkv(rows: int = 4, requires_grad: bool = False) -> list[Tensor]:
    return [torch.randn(1, rows, 4, 1, 16, requires_grad=requires_grad) for _ in range(3)]


def test_like_calls_are_checked_once(checks, request) -> None:
    operator = OPERATORS[request.node.callspec.params["checks"]]
    for number, (rows, size) in enumerate([(4, 3), (8, 3), (4, 2), (4, [3, 3])], 1):
        for _ in range(3):
            x = qkv(rows)
            found = operator(*x, size=size, backend="triton")
            torch.testing.assert_close(found, operator(*x, size=size, backend="reference"), atol=1e-5, rtol=1e-5)
        # the reference is checked each time
        assert len(checks) == 4 * number


def test_what_is_checked_each_time() -> None:
    q, k, v = qkv()
    window_attention(q, k, v, 1, backend="triton")
    with pytest.raises(TypeError, match="window_size must be one int"):
        window_attention(q, k, v, True, backend="triton")
    with pytest.raises(TypeError, match="k must have the dtype of q"):
        window_attention(q, k.double(), v, 1, backend="triton")
    with pytest.raises(ValueError, match="k must have the batch"):
        window_attention(q, k[:, :2], v, 1, backend="triton")
    with pytest.raises(ValueError, match="bias must be a table"):
        window_attention(q, k, v, 1, bias=torch.zeros(1, 3, 3), backend="triton")
    assert window_attention(q, k, v, 1, backend="triton", scale=0.5).shape == v.shape


def test_routes_on_a_cpu_are_checked_each_time() -> None:
    routes = torch.zeros(1, 4, 1, dtype=torch.int64)
    for _ in range(3):
        routed_attention(*qkv(), routes, regions=2, backend="triton")
    with pytest.raises(ValueError, match=r"routes must be region indices, 0 .. 3, got 4"):
        routed_attention(*qkv(), routes + 4, regions=2, backend="triton")


class Prepared:
    """Prepared kernels that torch computes: a sum of squares per number of the first tensor, and its gradients."""

    def __init__(self, compute) -> None:
        self.compute, self.runs = compute, 0

    def run(self, given):
        self.runs += 1
        return self.compute(*given)


def squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x * x + y * y, torch.zeros(1)


@pytest.fixture
def known() -> Known:
    def gradients(dout, saved, needs, known):
        x, y, *_ = saved
        return [None if dout is None or not needed else 2 * z * dout for z, needed in zip((x, y), needs, strict=True)]

    call = Known(lambda *tensors, known: pytest.fail("the call is prepared"), is_whole=True)
    call.keep(Prepared(squares), gradients)
    return call


def backward_of(known: Known, x: Tensor, y: Tensor, needs: tuple[bool, bool]) -> Prepared:
    """Prepares a backward pass that returns the needed gradients alone."""

    def compute(dout, x, y, out, _):
        return [2 * z * dout for z, needed in zip((x, y), needs, strict=True) if needed]

    plan, out = Prepared(compute), torch.empty_like(x)
    known.keep_backward(plan, (torch.empty_like(x), x.detach(), y.detach(), out, torch.zeros(1)), needs)
    return plan


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)], ids=str)
def test_prepared_kernels_give_the_gradients_that_are_needed(known, needs) -> None:
    x, y = (torch.randn(4, requires_grad=needed) for needed in needs)
    plan = backward_of(known, x, y, needs)
    out = known(x, y)
    torch.testing.assert_close(out, x * x + y * y)
    assert out.requires_grad == any(needs)
    if any(needs):
        dout = torch.randn(4)
        out.backward(dout)
        for z, needed in zip((x, y), needs, strict=True):
            assert (z.grad is not None) == needed
            if needed:
                torch.testing.assert_close(z.grad, 2 * z.detach() * dout)
        assert plan.runs == 1


def test_a_gradient_of_another_kind_is_not_given_to_prepared_kernels(known) -> None:
    x, y = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    plan = backward_of(known, x, y, (True, True))
    for dout in (torch.ones(1).expand(4), torch.ones(8)[::2], torch.ones(5)[1:]):
        torch.testing.assert_close(torch.autograd.grad(known(x, y), [x, y], dout), (2 * x, 2 * y))
    assert plan.runs == 0
    torch.autograd.grad(known(x, y), [x, y], torch.ones(4), create_graph=True)
    assert plan.runs == 0
    torch.autograd.grad(known(x, y), [x, y], torch.ones(4))
    assert plan.runs == 1


def test_saved_tensors_that_a_hook_replaced_are_not_given_to_prepared_kernels(known) -> None:
    x, y = torch.randn(4, requires_grad=True), torch.randn(4, requires_grad=True)
    plan = backward_of(known, x, y, (True, True))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: x, lambda x: torch.stack([x, x], 1)[:, 0]):
        out = known(x, y)
    torch.testing.assert_close(torch.autograd.grad(out.sum(), [x, y]), (2 * x, 2 * y))
    assert plan.runs == 0


def test_repeated_calls_have_gradients_and_follow_their_tensors() -> None:
    for _ in range(3):
        packed = torch.randn(1, 4, 4, 3, 1, 16, requires_grad=True)
        dout = torch.randn(1, 4, 4, 1, 16)
        gradients = [
            torch.autograd.grad(packed_window_attention(packed, 2, shift=1, backend=backend), packed, dout)[0]
            for backend in ("triton", "reference")
        ]
        torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)


def test_a_compiler_and_a_transform_see_the_operator() -> None:
    x = qkv()
    expected = window_attention(*x, 2, backend="triton")
    seen = []

    class Mode(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    with Mode():
        torch.testing.assert_close(window_attention(*x, 2, backend="triton"), expected)
    assert "attnzoo.window_attention.default" in seen
