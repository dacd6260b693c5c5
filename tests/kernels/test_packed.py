"""Operators of a packed qkv: the results of those of q, k and v, with one gradient."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from comparison import assert_close
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attnzoo.kernels import (
    explain,
    neighborhood_attention,
    packed_neighborhood_attention,
    packed_window_attention,
    window_attention,
)

Function = Callable[..., Tensor]

OPERATORS: dict[str, tuple[Function, Function]] = {
    "neighborhood": (
        partial(neighborhood_attention, kernel_size=3, dilation=(1, 2)),
        partial(packed_neighborhood_attention, kernel_size=3, dilation=(1, 2)),
    ),
    "window": (
        partial(window_attention, window_size=4, shift=1),
        partial(packed_window_attention, window_size=4, shift=1),
    ),
    "large window": (
        partial(window_attention, window_size=(9, 2)),
        partial(packed_window_attention, window_size=(9, 2)),
    ),
}
TABLES = {"neighborhood": (5, 5), "window": (7, 7), "large window": (17, 3)}
pytestmark = pytest.mark.usefixtures("quick_interpreter")
operators = pytest.mark.parametrize("name", OPERATORS)


def inputs(name: str) -> tuple[Tensor, Tensor]:
    qkv = torch.randn(1, 6, 7, 3, 2, 8, generator=torch.Generator().manual_seed(0))
    return qkv.requires_grad_(), torch.randn(2, *TABLES[name], requires_grad=True)


class Calls(TorchDispatchMode):
    """Records the names of the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


@operators
@pytest.mark.parametrize("backend", ["reference", "eager", "triton"])
def test_results_are_those_of_three_tensors(name: str, backend: str) -> None:
    if backend == "triton":
        pytest.importorskip("triton")
    parts, packed = OPERATORS[name]
    qkv, bias = inputs(name)
    dout = torch.randn(1, 6, 7, 2, 8)
    true = parts(*qkv.unbind(3), bias=bias, backend="reference")
    expected = torch.autograd.grad(true, (qkv, bias), dout)
    out = packed(qkv, bias=bias, backend=backend)
    assert_close("output", out, true, 1e-5)
    for label, x, y in zip(("dqkv", "dbias"), torch.autograd.grad(out, (qkv, bias), dout), expected, strict=True):
        assert_close(label, x, y, 1e-5)
    with torch.no_grad():
        assert_close("without gradients", packed(qkv, bias=bias, backend=backend), true, 1e-5)


@operators
def test_kernels_write_one_gradient(name: str) -> None:
    pytest.importorskip("triton")
    _, packed = OPERATORS[name]
    qkv, bias = inputs(name)
    with Calls() as calls:
        packed(qkv, bias=bias, backend="triton").sum().backward()
    assert not [x for x in calls.names if "stack" in x or "cat" in x]
    assert [x for x in calls.names if x.startswith("attnzoo::packed_") and x.endswith("_backward")]


def test_modes_for_functions_see_the_operator() -> None:
    pytest.importorskip("triton")
    seen = []

    class Functions(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    qkv = torch.randn(1, 4, 4, 3, 1, 8)
    with Functions():
        packed_window_attention(qkv, 4, backend="triton")
    assert "attnzoo.packed_window_attention.default" in seen
    with torch.device("meta"):
        assert packed_window_attention(qkv, 4, backend="triton").isfinite().all()


def test_gradient_of_the_packed_tensor_alone() -> None:
    pytest.importorskip("triton")
    qkv, _ = inputs("window")
    window = partial(packed_window_attention, qkv, 4)
    (ours,) = torch.autograd.grad(window(backend="triton").square().sum(), qkv)
    (true,) = torch.autograd.grad(window(backend="reference").square().sum(), qkv)
    assert_close("dqkv", ours, true, 1e-5)


def test_a_sequence_is_packed_too() -> None:
    qkv = torch.randn(2, 12, 3, 2, 8)
    true = neighborhood_attention(*qkv.unbind(2), 5, backend="reference")
    assert_close("output", packed_neighborhood_attention(qkv, 5, backend="eager"), true, 1e-6)


def test_a_map_smaller_than_its_window_is_padded() -> None:
    qkv, padding = torch.randn(1, 4, 6, 3, 2, 8), (torch.randn(2, 8), torch.randn(2, 8))
    true = neighborhood_attention(*qkv.unbind(3), 5, padding=padding, backend="reference")
    for backend in ("eager", "triton"):
        assert_close("output", packed_neighborhood_attention(qkv, 5, padding=padding, backend=backend), true, 1e-5)


@operators
def test_operations_are_those_of_three_tensors(name: str) -> None:
    parts, packed = OPERATORS[name]
    qkv, bias = inputs(name)
    counts = []
    for call in (
        lambda: parts(*qkv.unbind(3), bias=bias, backend="triton"),
        lambda: packed(qkv, bias=bias, backend="triton"),
    ):
        with FlopCounterMode(display=False) as counter:
            call().sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_opcheck() -> None:
    pytest.importorskip("triton")
    qkv, bias = inputs("window")
    torch.library.opcheck(torch.ops.attnzoo.packed_window_attention, (qkv, bias, [4, 4], [1, 1], 0.3))
    qkv, bias = inputs("neighborhood")
    window = [3, 3], [1, 2], [1, 1], [False, False]
    torch.library.opcheck(torch.ops.attnzoo.packed_neighborhood_attention, (qkv, bias, *window, 0.3))


@pytest.mark.parametrize("shape", [(2, 9, 8, 2, 16), (2, 9, 8, 4, 2, 16), (2, 8, 2, 16)], ids=str)
@pytest.mark.parametrize("function", [packed_neighborhood_attention, packed_window_attention])
def test_other_shapes_are_refused(function: Function, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"qkv must be a tensor \(B, H, W, 3, heads, width\)"):
        function(torch.zeros(shape), 3)


def test_other_types_are_refused() -> None:
    with pytest.raises(TypeError, match="qkv must be a tensor"):
        packed_window_attention([torch.zeros(1)], 3)  # type: ignore[arg-type]


def test_explanation() -> None:
    assert str(explain(packed_window_attention, torch.zeros(1, 4, 4, 3, 1, 8))).startswith(
        "eager: the tensors are on cpu"
    )
