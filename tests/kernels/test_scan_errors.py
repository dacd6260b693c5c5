"""Invalid arguments of the selective scan: the type of the exception, and a message that says what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from attnzoo.kernels import explain, selective_scan

MAP = torch.zeros(2, 6, 3, 4)
ROUTES = torch.arange(6).expand(3, -1)


def mistake(name: str, kind: type[Exception], message: str, **arguments: Any) -> Any:
    return pytest.param(arguments, kind, message, id=name)


MISTAKES = [
    mistake("list", TypeError, "u must be a tensor (batch, steps, heads, channels), got list", u=[1.0]),
    mistake("integers", TypeError, "B must be floating point, got torch.int64", B=MAP.long()),
    mistake("axes", ValueError, "A must have the axes (heads, channels, state), got (4, 4)", A=torch.zeros(4, 4)),
    mistake("steps", ValueError, "delta must have the steps of u, 6, got (2, 5, 3, 4)", delta=MAP[:, 1:]),
    mistake("heads", ValueError, "C must have the heads of u, 3, or one head, got (2, 6, 2, 4)", C=MAP[:, :, 1:]),
    mistake("state", ValueError, "B must have the state of A, 5, got (2, 6, 3, 4)", A=torch.zeros(3, 4, 5)),
    mistake("channels", ValueError, "D must have the channels of u, 4, got (3, 5)", D=torch.zeros(3, 5)),
    mistake("dtype", TypeError, "delta must have the dtype of u, torch.float32, got torch.float64", delta=MAP.double()),
    mistake("device", ValueError, "C must be on the device of u, cpu, got meta", C=MAP.to("meta")),
    mistake("empty", ValueError, "u must not be empty, got (2, 0, 3, 4)", u=MAP[:, :0]),
    mistake("list of routes", TypeError, "routes must be an integer tensor (heads, steps) or None", routes=[1]),
    mistake("float routes", TypeError, "routes must be token indices, int64 or int32", routes=ROUTES.float()),
    mistake("short routes", ValueError, "routes must be (heads, steps) = (3, 6), got (3, 5)", routes=ROUTES[:, 1:]),
    mistake("twice", ValueError, "routes must contain each of the tokens 0 .. 5 once", routes=ROUTES // 2),
    mistake("routes elsewhere", ValueError, "routes must be on the device of u, cpu", routes=ROUTES.to("meta")),
    mistake("unknown backend", ValueError, "backend 'cuda' is unknown", backend="cuda"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), MISTAKES)
def test_mistakes_say_what_is_wrong(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    valid = {"u": MAP, "delta": MAP, "A": torch.zeros(3, 4, 4), "B": MAP, "C": MAP, "D": torch.zeros(3, 4)}
    with pytest.raises(kind, match=re.escape(message)):
        selective_scan(**{**valid, "routes": ROUTES, **arguments})


def test_explain_names_the_backend_and_why() -> None:
    assert str(explain(selective_scan, MAP)) == "eager: the tensors are on cpu, where Triton does not run"
