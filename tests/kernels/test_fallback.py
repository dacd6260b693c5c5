"""Where a kernel cannot be compiled or launched: eager takes over if Triton was chosen, an error if it was named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from comparison import assert_close
from operator_examples import PLAIN, Example
from torch import Tensor

triton = pytest.importorskip("triton")

from attnzoo.kernels import arguments, backends, explain, fallback, triton_launch  # noqa: E402

pytestmark = pytest.mark.usefixtures("quick_interpreter")


class RefusedError(Exception):
    """What a driver or compiler may raise."""


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Forgets what failed."""
    yield
    fallback._causes.clear()


def choose_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `backend=None` choose Triton on a CPU, as it does on a GPU."""

    def choose(operator: str, executions: object, backend: str | None, *tensors: Tensor) -> backends.Choice:
        device = tensors[0].device
        failed = fallback.cause_of_failure(operator, device.type, device.index)
        return backends.Choice("eager" if failed and backend is None else "triton", "")

    monkeypatch.setattr(arguments, "choose", choose)


def refuse(monkeypatch: pytest.MonkeyPatch, allowed: int = 0) -> list[str]:
    """Lets every launch after the first `allowed` ones fail; returns the growing list of launches."""
    start, launches = triton_launch.Launch._start, []

    def fail(launch: triton_launch.Launch, programs: int) -> None:
        launches.append(launch.kernel.__name__)
        if len(launches) <= allowed:
            return start(launch, programs)
        try:
            raise RefusedError("no such instruction\nline 2")
        except RefusedError as error:
            raise RuntimeError("while compiling") from error

    monkeypatch.setattr(triton_launch.Launch, "_start", fail)
    return launches


# a scan has one kernel for each pass
FAILURES = [(x, allowed) for x in PLAIN for allowed in range(3 if x.is_attention or x.is_half else 2)]


@pytest.mark.parametrize(("example", "allowed"), FAILURES, ids="{}".format)
def test_eager_takes_over_after_one_warning(example: Example, allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = example.inputs(torch.float32)
    true = example.run(inputs, "reference")
    choose_triton(monkeypatch)
    launches = refuse(monkeypatch, allowed)
    with pytest.warns(UserWarning, match="runs in eager from now on: RefusedError: no such instruction") as caught:
        ours = example.run(inputs, None)
    for name, x in true.tensors.items():
        assert_close(name, ours.tensors[name], x, 1e-5)
    # the interpreter has warnings of its own
    ours_of = [str(warning.message) for warning in caught if "runs in eager" in str(warning.message)]
    assert len(set(ours_of)) == len(ours_of)
    before = len(launches)
    again = example.run(inputs, None)
    assert_close("output", again.tensors["output"], true.tensors["output"], 1e-5)
    # the halves have an operator for each gradient, which fails for itself
    assert example.is_half or len(launches) == before


@pytest.mark.parametrize("example", PLAIN, ids=str)
def test_a_named_backend_raises_the_cause(example: Example, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = example.inputs(torch.float32)
    refuse(monkeypatch)
    for _ in range(2):
        with pytest.raises(fallback.KernelError, match="could not be compiled or launched: RefusedError: no such"):
            example(inputs, "triton")


def test_a_named_backend_raises_in_the_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    example = PLAIN[0]
    # the masks and the attention
    refuse(monkeypatch, allowed=2)
    out = example(example.inputs(torch.float32), "triton")
    with pytest.raises(fallback.KernelError, match="RefusedError: no such instruction"):
        out.sum().backward()


def test_out_of_memory_is_not_a_failure_of_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(launch: triton_launch.Launch, programs: int) -> None:
        raise torch.OutOfMemoryError("no memory")

    choose_triton(monkeypatch)
    monkeypatch.setattr(triton_launch.Launch, "_start", fail)
    with pytest.raises(torch.OutOfMemoryError, match="no memory"):
        PLAIN[0](PLAIN[0].inputs(torch.float32), None)
    assert not fallback._causes


class OnGpu:
    """What `choose` reads of a tensor on a GPU."""

    device, dtype, shape = torch.device("cuda", 0), torch.float32, (1, 4, 4, 1, 32)


@pytest.mark.parametrize(("capability", "backend"), [((7, 5), "eager"), ((8, 0), "triton"), ((12, 0), "triton")])
def test_old_devices_use_eager(capability: tuple[int, int], backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capability)
    executions = PLAIN[0].function.executions
    choice = backends.choose("neighborhood_attention", executions, None, OnGpu())
    assert choice.backend == backend
    if backend == "eager":
        assert "compute capability 8.0 or newer, and this one has 7.5" in choice.reason
        with pytest.raises(ValueError, match="this one has"):
            backends.choose("neighborhood_attention", executions, "triton", OnGpu())


def test_what_failed_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    fallback._causes["neighborhood_attention", "cuda", 0] = "RefusedError: no such instruction"
    monkeypatch.setattr(backends, "Tensor", OnGpu)
    choice = explain(PLAIN[0].function, OnGpu())
    assert choice.backend == "eager"
    assert "RefusedError: no such instruction" in choice.reason
    executions = PLAIN[0].function.executions
    assert backends.choose("window_attention", executions, None, OnGpu()).backend == "triton"
