"""Invalid arguments: the type of the exception, and a message with the argument, its value and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from attnzoo.kernels import explain, neighborhood_attention, neighborhood_av, neighborhood_qk
from attnzoo.kernels.backends import choose

MAP = torch.zeros(2, 9, 12, 3, 4)
TABLE = torch.zeros(3, 5, 5)
WEIGHTS = torch.zeros(2, 9, 12, 3, 9)


def attend(q: Any = MAP, k: Any = MAP, v: Any = MAP, kernel_size: Any = 3, **arguments: Any) -> Tensor:
    return neighborhood_attention(q, k, v, kernel_size, **arguments)


def qk(q: Any = MAP, k: Any = MAP, kernel_size: Any = 3, **arguments: Any) -> Tensor:
    return neighborhood_qk(q, k, kernel_size, **arguments)


def av(weights: Any = WEIGHTS, v: Any = MAP, kernel_size: Any = 3, **arguments: Any) -> Tensor:
    return neighborhood_av(weights, v, kernel_size, **arguments)


def mistake(name: str, function: Callable[..., Tensor], kind: type[Exception], message: str, **arguments: Any) -> Any:
    return pytest.param(function, arguments, kind, message, id=name)


MISTAKES = [
    # tensors
    mistake("q is a list", attend, TypeError, "q must be a tensor (B, H, W, heads, width), got list", q=[1.0]),
    mistake(
        "heads not split",
        attend,
        ValueError,
        "q must have five axes (B, H, W, heads, width), got (2, 9, 12, 12): "
        "split the channels into heads with unflatten(-1, (heads, width))",
        q=torch.zeros(2, 9, 12, 12),
    ),
    mistake("v of six axes", attend, ValueError, "v must have five axes", v=torch.zeros(1, 2, 9, 12, 3, 4)),
    mistake(
        "heads differ",
        attend,
        ValueError,
        "k must have the batch, map and heads of q, (2, 9, 12, 3), got (2, 9, 12, 2)",
        k=MAP[:, :, :, :2],
    ),
    mistake("batches differ", attend, ValueError, "v must have the batch, map and heads of q", v=MAP[:1]),
    mistake(
        "maps differ",
        attend,
        ValueError,
        "k must have the batch, map and heads of q, (2, 9, 12, 3), got (2, 8, 12, 3)",
        k=MAP[:, 1:],
    ),
    mistake("widths of q and k", attend, ValueError, "k must have the width of q, 4, got 3", k=MAP[..., :3]),
    mistake("widths in qk", qk, ValueError, "k must have the width of q, 4, got 2", k=MAP[..., ::2]),
    mistake(
        "no heads",
        attend,
        ValueError,
        "q must have at least one head and one channel per head, got (2, 9, 12, 0, 4)",
        q=MAP[:, :, :, :0],
    ),
    mistake("no width", attend, ValueError, "v must have at least one head and one channel", v=MAP[..., :0]),
    mistake("integers", attend, TypeError, "q must be floating point, got torch.int64", q=MAP.long()),
    mistake("complex", attend, TypeError, "k must be floating point, got torch.complex64", k=MAP + 0j),
    mistake(
        "dtypes differ",
        attend,
        TypeError,
        "v must have the dtype of q, torch.float32, got torch.bfloat16",
        v=MAP.bfloat16(),
    ),
    mistake("devices differ", attend, ValueError, "k must be on the device of q, cpu, got meta", k=MAP.to("meta")),
    mistake(
        "weights for another kernel",
        av,
        ValueError,
        "weights must have one entry for each of the 5 x 5 keys of a window, (B, H, W, heads, 25), "
        "got (2, 9, 12, 3, 9)",
        kernel_size=5,
    ),
    mistake("weights of another map", av, ValueError, "v must have the batch, map and heads of weights", v=MAP[:, 1:]),
    mistake("weights of another dtype", av, TypeError, "v must have the dtype of weights", v=MAP.double()),
    # the window
    mistake(
        "kernel 0",
        attend,
        ValueError,
        "kernel_size must be at least 1, got 0 on axis 0 (rows)",
        kernel_size=0,
    ),
    mistake(
        "negative kernel on columns",
        attend,
        ValueError,
        "kernel_size must be at least 1, got -3 on axis 1 (columns)",
        kernel_size=(3, -3),
    ),
    mistake(
        "kernel larger than the map",
        attend,
        ValueError,
        "kernel_size * dilation must not exceed the map, 9 on axis 0 (rows), got 11 * 1: "
        "use a smaller window, or pad the map",
        kernel_size=11,
    ),
    mistake(
        "dilated kernel larger than the map",
        qk,
        ValueError,
        "kernel_size * dilation must not exceed the map, 12 on axis 1 (columns), got 5 * 3",
        kernel_size=(3, 5),
        dilation=3,
    ),
    mistake("empty map", attend, ValueError, "must not exceed the map, 0 on", q=MAP[:, :0], k=MAP[:, :0], v=MAP[:, :0]),
    mistake("dilation 0", attend, ValueError, "dilation must be at least 1, got 0 on axis 0 (rows)", dilation=0),
    mistake(
        "stride larger than the kernel",
        attend,
        ValueError,
        "stride must be between 1 and kernel_size, 3, got 4 on axis 1 (columns)",
        stride=(1, 4),
    ),
    mistake("stride 0", av, ValueError, "stride must be between 1 and kernel_size, 3, got 0", stride=0),
    mistake(
        "float kernel", attend, TypeError, "kernel_size must be one int or a pair of ints, got 3.0", kernel_size=3.0
    ),
    mistake(
        "bool kernel", attend, TypeError, "kernel_size must be one int or a pair of ints, got True", kernel_size=True
    ),
    mistake(
        "kernel is None", attend, TypeError, "kernel_size must be one int or a pair of ints, got None", kernel_size=None
    ),
    mistake(
        "three kernels",
        attend,
        ValueError,
        "kernel_size must be one int or a pair (rows, columns), got 3 values",
        kernel_size=(3, 3, 3),
    ),
    mistake("pair of one", attend, ValueError, "dilation must be one int or a pair", dilation=[2]),
    mistake("float in a pair", attend, TypeError, "stride must be one int or a pair of ints, got 1.5", stride=(1, 1.5)),
    mistake(
        "causal as a number", attend, TypeError, "is_causal must be one bool or a pair of bools, got 1", is_causal=1
    ),
    mistake("three causal axes", attend, ValueError, "is_causal must be one bool or a pair", is_causal=(True,) * 3),
    # bias and scale
    mistake(
        "bias for another kernel",
        attend,
        ValueError,
        "bias must be a table (heads, 2 * rows - 1, 2 * columns - 1) = (3, 9, 5) for a 5 x 3 window, got (3, 5, 5)",
        kernel_size=(5, 3),
        bias=TABLE,
    ),
    mistake("bias of other heads", qk, ValueError, "bias must be a table", bias=TABLE[:2]),
    mistake("bias without heads", attend, ValueError, "got (5, 5)", bias=TABLE[0]),
    mistake("bias is a number", attend, TypeError, "bias must be a tensor or None, got float", bias=0.5),
    mistake("bias of integers", attend, TypeError, "bias must be floating point, got torch.int32", bias=TABLE.int()),
    mistake(
        "bias elsewhere", attend, ValueError, "bias must be on the device of q, cpu, got meta", bias=TABLE.to("meta")
    ),
    mistake(
        "learned scale",
        attend,
        TypeError,
        "scale must be a number or None, got Tensor: multiply q by a learned scale and pass 1.0",
        scale=torch.ones(1),
    ),
    mistake("scale is text", qk, TypeError, "scale must be a number or None, got str", scale="auto"),
    # backends
    mistake(
        "unknown backend",
        attend,
        ValueError,
        "backend 'cuda' is unknown: use one of reference, eager, triton, or None to choose",
        backend="cuda",
    ),
    mistake("backend is a number", av, TypeError, "backend must be a string or None, got int", backend=1),
    mistake(
        "float64 on triton",
        attend,
        ValueError,
        "backend='triton' cannot run because the kernels support float32, bfloat16 and float16, but the tensors are "
        "torch.float64: use backend=None to choose, or 'eager'",
        q=MAP.double(),
        k=MAP.double(),
        v=MAP.double(),
        backend="triton",
    ),
    mistake(
        "heads too wide for triton",
        attend,
        ValueError,
        "the kernels support heads of up to 256 channels, but the tensors have 257",
        v=torch.zeros(2, 9, 12, 3, 257),
        backend="triton",
    ),
]


@pytest.mark.parametrize(("function", "arguments", "kind", "message"), MISTAKES)
def test_mistakes_say_what_is_wrong(
    function: Callable[..., Tensor], arguments: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        function(**arguments)


def test_triton_on_a_cpu_needs_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(ValueError, match="the tensors are on cpu, and Triton runs on CUDA and ROCm devices"):
        attend(backend="triton")


def test_triton_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attnzoo.kernels.backends._is_triton_installed", lambda: False)
    with pytest.raises(ValueError, match="triton is not installed"):
        attend(backend="triton")


@pytest.mark.parametrize("operator", [neighborhood_attention, neighborhood_qk, neighborhood_av])
def test_explain_names_the_backend_and_why(operator: Callable[..., Tensor]) -> None:
    choice = explain(operator, MAP)
    assert choice.backend == "eager"
    assert str(choice) == "eager: the tensors are on cpu, where Triton does not run"
    assert str(explain(operator, MAP, backend="reference")) == "reference: named by the caller"


def test_explain_of_a_device_without_triton() -> None:
    assert explain(neighborhood_attention, MAP.to("meta")).backend == "eager"


class OnCuda:
    """The attributes of a tensor on a CUDA device that `explain` reads."""

    def __init__(self, dtype: torch.dtype = torch.float32, width: int = 32) -> None:
        self.device, self.dtype, self.shape = torch.device("cuda"), dtype, (2, 9, 12, 3, width)


@pytest.mark.parametrize(
    ("tensor", "choice"),
    [
        (OnCuda(), "triton: the tensors are on a CUDA or ROCm device"),
        (OnCuda(torch.float64), "eager: the kernels support float32, bfloat16 and float16, but the tensors are"),
        (OnCuda(width=512), "eager: the kernels support heads of up to 256 channels, but the tensors have 512"),
    ],
    ids=["runs", "float64", "wide"],
)
def test_choice_on_a_cuda_device(tensor: Any, choice: str) -> None:
    executions = neighborhood_attention.executions  # type: ignore[attr-defined]
    assert str(choose("neighborhood_attention", executions, None, tensor)).startswith(choice)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        pytest.param((torch.softmax, MAP), TypeError, "is not an operator of attnzoo.kernels", id="no operator"),
        pytest.param(
            (neighborhood_attention, None), TypeError, "input tensors of the operator, got NoneType", id="no tensor"
        ),
        pytest.param((neighborhood_attention, MAP, "cuda"), ValueError, "backend 'cuda' is unknown", id="no backend"),
    ],
)
def test_explain_refuses(arguments: tuple[Any, ...], kind: type[Exception], message: str) -> None:
    operator, tensor, *backend = arguments
    with pytest.raises(kind, match=re.escape(message)):
        explain(operator, tensor, backend=backend[0] if backend else None)


def test_explain_agrees_with_what_an_export_runs() -> None:
    """While a model is exported the choice is eager, whatever the device."""
    chosen = []

    class Ask(torch.nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            chosen.append(str(explain(neighborhood_attention, x)))
            return x + 1

    torch.export.export(Ask(), (MAP,), strict=False)
    assert chosen == ["eager: the model is being exported, and only eager is made of ordinary operators"]
