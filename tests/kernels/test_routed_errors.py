"""Invalid arguments of routed attention: the type of the exception, and a message that says what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from attnzoo.kernels import explain, routed_attention

MAP = torch.zeros(2, 9, 12, 3, 4)
ROUTES = torch.zeros(2, 9, 2, dtype=torch.int64)


def mistake(name: str, kind: type[Exception], message: str, **arguments: Any) -> Any:
    return pytest.param(arguments, kind, message, id=name)


MISTAKES = [
    mistake("q is a list", TypeError, "q must be a tensor (B, H, W, heads, width), got list", q=[1.0]),
    mistake("maps differ", ValueError, "k must have the batch, map and heads of q", k=MAP[:, 1:]),
    mistake("widths of q and k", ValueError, "k must have the width of q, 4, got 3", k=MAP[..., :3]),
    mistake("dtypes differ", TypeError, "v must have the dtype of q, torch.float32", v=MAP.bfloat16()),
    mistake(
        "regions do not divide the rows",
        ValueError,
        "regions must divide the map, 9 on axis 0 (rows), got 4: pad the map to a multiple of it",
        regions=4,
    ),
    mistake(
        "regions do not divide the columns",
        ValueError,
        "regions must divide the map, 12 on axis 1 (columns), got 5",
        regions=(3, 5),
    ),
    mistake("more regions than rows", ValueError, "9 on axis 0 (rows), got 18", regions=18),
    mistake("empty map", ValueError, "must divide the map, 0 on axis 1", **dict.fromkeys("qkv", MAP[:, :, :0])),
    mistake("no regions", ValueError, "regions must be at least 1, got 0 on axis 0 (rows)", regions=0),
    mistake("float regions", TypeError, "regions must be one int or a pair of ints, got 3.0", regions=3.0),
    mistake(
        "three regions",
        ValueError,
        "regions must be one int or a pair (rows, columns), got 3 values",
        regions=(3, 3, 3),
    ),
    mistake(
        "routes are a list", TypeError, "routes must be an integer tensor (B, regions, topk), got list", routes=[1]
    ),
    mistake("float routes", TypeError, "routes must be integer region indices, got torch.float32", routes=MAP),
    mistake("bool routes", TypeError, "routes must be integer region indices, got torch.bool", routes=ROUTES > 0),
    mistake(
        "routes of other regions",
        ValueError,
        "routes must be (B, regions, topk) = (2, 12, 1 or more) for 3 x 4 regions, got (2, 9, 2)",
        regions=(3, 4),
    ),
    mistake("routes of another batch", ValueError, "(2, 9, 1 or more)", routes=ROUTES[:1]),
    mistake("routes per head", ValueError, "got (2, 3, 9, 2)", routes=ROUTES.unsqueeze(1).expand(-1, 3, -1, -1)),
    mistake("empty routes", ValueError, "got (2, 9, 0)", routes=ROUTES[..., :0]),
    mistake("routes too high", ValueError, "routes must be region indices, 0 .. 8, got 9", routes=ROUTES + 9),
    mistake("negative routes", ValueError, "routes must be region indices, 0 .. 8, got -1", routes=ROUTES - 1),
    mistake(
        "routes elsewhere", ValueError, "routes must be on the device of q, cpu, got meta", routes=ROUTES.to("meta")
    ),
    mistake("learned scale", TypeError, "scale must be a number or None, got Tensor", scale=torch.ones(1)),
    mistake("unknown backend", ValueError, "backend 'cuda' is unknown", backend="cuda"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), MISTAKES)
def test_mistakes_say_what_is_wrong(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        routed_attention(**{"q": MAP, "k": MAP, "v": MAP, "routes": ROUTES, "regions": 3, **arguments})


def test_explain_names_the_backend_and_why() -> None:
    assert str(explain(routed_attention, MAP)) == "eager: the tensors are on cpu, where Triton does not run"
