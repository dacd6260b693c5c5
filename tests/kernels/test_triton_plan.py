"""Prepared calls: what tells them apart, and that other tensors of the same kind take the place of the first ones.

The calls themselves are repeated by `start_kernels.py`, for which Triton's interpreter must be off.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from attnzoo.kernels import cache, triton_plan
from attnzoo.kernels.triton_blocks import Tokens
from attnzoo.kernels.triton_launch import Configuration, Launch
from attnzoo.kernels.triton_plan import Result, Workspace


def floats_at(address: int) -> Tensor:
    """The eight numbers that a kernel would find at an address."""
    return torch.frombuffer((ctypes.c_float * 8).from_address(address), dtype=torch.float32)


class Kernel:
    """A kernel that is compiled to a function: out = scale * (x + y)."""

    arg_names = ("x", "y", "scale", "out", "BLOCK")
    __name__ = "kernel"

    def __init__(self) -> None:
        self.compiled = self.started = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., object]:
        def start(stream: object = None, **named: object) -> Kernel:
            self.compiled += 1
            return self

        def run(x: tuple[int, ...], y: int, scale: float, out: int, block: int, stream: object) -> None:
            self.started += 1
            assert (grid, block, x[1:]) == ((3, 1, 1), 16, (8, 4, 2, 1))
            torch.add(floats_at(x[0]), floats_at(y), out=floats_at(out)).mul_(scale)

        # the first call names its arguments, and the compiled kernel gets all of them in order
        return run if self.compiled else start


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_entries", type(cache._entries)())

    class Driver:
        def get_current_device(self) -> int:
            return 0

        def get_current_stream(self, device: int) -> int:
            return 0

    name = "_active" if hasattr(triton_plan.triton.runtime.driver, "_active") else "active"
    monkeypatch.setattr(triton_plan.triton.runtime.driver, name, Driver())


def call(kernel: Kernel, x: Tensor, y: Tensor, programs: int = 3) -> list[Tensor]:
    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        x, y = workspace.given
        assert x is not None
        out = workspace.empty((8,), x.dtype, x.device)
        doubled = workspace.make(lambda y: y * 2, y)
        arguments = {"x": Tokens(x, 8, 4, 2, 1), "y": doubled, "scale": 0.5, "out": out}
        launch = Launch(kernel, lambda constants: programs, arguments, {}, Configuration({"BLOCK": 16}))
        return [launch], [Result(out), Result(out, lambda out: out.sum(0))]

    return triton_plan.run("example", (x, y), build)


def test_a_repeated_call_computes_with_its_own_tensors() -> None:
    kernel = Kernel()
    call(kernel, torch.zeros(8), torch.zeros(8))
    assert (kernel.compiled, kernel.started) == (1, 0)
    for _ in range(2):
        x, y = torch.randn(8), torch.randn(8)
        out, total = call(kernel, x, y)
        assert torch.equal(out, (x + 2 * y) * 0.5)
        assert torch.equal(total, out.sum(0))
    assert (kernel.compiled, kernel.started) == (1, 2)


def test_one_tensor_in_two_places_is_not_taken_for_both_later() -> None:
    kernel, same = Kernel(), torch.zeros(8)
    call(kernel, same, same)
    x, y = torch.randn(8), torch.randn(8)
    assert torch.equal(call(kernel, x, y)[0], (x + 2 * y) * 0.5)


def test_views_are_not_made_again() -> None:
    kernel, made = Kernel(), []

    def parts(x: Tensor) -> tuple[Tensor, ...]:
        made.append(x)
        return x.unbind(0)

    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        (packed,) = workspace.given
        assert packed is not None
        _, x, y = workspace.make(parts, packed)
        gradients = workspace.empty((2, 8), x.dtype, x.device)
        _, out = workspace.make(torch.unbind, gradients)
        last = workspace.make(lambda x: x[4:], out)
        arguments = {"x": Tokens(x, 8, 4, 2, 1), "y": y, "scale": 0.5, "out": out}
        launch = Launch(kernel, lambda constants: 3, arguments, {}, Configuration({"BLOCK": 16}))
        return [launch], [Result(gradients), Result(last)]

    for _ in range(3):
        packed = torch.randn(3, 8)
        gradients, last = triton_plan.run("packed", (packed,), build)
    assert (len(made), kernel.started) == (1, 2)
    assert torch.equal(gradients[1], (packed[1] + packed[2]) * 0.5)
    assert torch.equal(last, gradients[1, 4:])


def test_gradients_do_not_take_over_strides_of_sides_of_one() -> None:
    x = torch.zeros(8).as_strided((1, 8), (3, 1))
    assert x.is_contiguous()
    workspace = Workspace([x])
    assert workspace.empty(x.shape, x.dtype, x.device).stride() == (8, 1)
    assert Workspace([torch.zeros(2, 4).t()]).empty((4, 2), x.dtype, x.device).stride() == (2, 1)


def test_calls_without_programs_are_repeated_too() -> None:
    kernel = Kernel()
    for _ in range(2):
        call(kernel, torch.zeros(8), torch.zeros(8), programs=0)
    assert (kernel.compiled, kernel.started) == (0, 0)


def test_a_tensor_from_elsewhere_is_not_repeated() -> None:
    kernel, foreign = Kernel(), torch.ones(8)

    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        out = workspace.empty((8,), torch.float32, foreign.device)
        arguments = {"x": Tokens(foreign, 8, 4, 2, 1), "y": foreign, "scale": 1.0, "out": out}
        return [Launch(kernel, lambda constants: 3, arguments, {}, Configuration({"BLOCK": 16}))], [Result(out)]

    triton_plan.run("foreign", (torch.zeros(8),), build)
    assert cache.total() == 0


def test_what_a_kernel_is_compiled_for_tells_calls_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = torch.zeros(64)
    x = memory[:16].view(4, 4)
    others = [x.half(), x.t(), x[:2], memory[1:17].view(4, 4), None]
    keys = [triton_plan._key("kind", x, [x])] + [triton_plan._key("kind", x, [other]) for other in others]
    keys.append(triton_plan._key("another", x, [x]))
    assert len(set(keys)) == len(keys)
    assert triton_plan._key("kind", x, [x.clone()]) == keys[0]
    monkeypatch.setattr(triton_plan, "precision_of", lambda dtype: "tf32")
    assert triton_plan._key("kind", x, [x]) not in keys
