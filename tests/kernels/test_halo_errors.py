"""Invalid arguments of halo attention: the type of the exception, and a message that says what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from attnzoo.kernels import explain, halo_attention

MAP = torch.zeros(2, 8, 12, 3, 4)


def mistake(name: str, kind: type[Exception], message: str, **arguments: Any) -> Any:
    return pytest.param(arguments, kind, message, id=name)


MISTAKES = [
    mistake("q is a list", TypeError, "q must be a tensor (B, H, W, heads, width), got list", q=[1.0]),
    mistake("k and v differ", ValueError, "v must have the batch, map and heads of k", v=MAP[:, 1:]),
    mistake("widths of q and k", ValueError, "k must have the width of q, 3, got 4", q=MAP[..., :3]),
    mistake("dtypes differ", TypeError, "q must have the dtype of k, torch.float32, got", q=MAP.bfloat16()),
    mistake(
        "queries of another stride",
        ValueError,
        "= (2, 4, 6, 3) for keys on a map of 8 x 12 and a stride of 2 x 2",
        stride=2,
    ),
    mistake("no block", ValueError, "block_size must be at least 1, got 0 on axis 0 (rows)", block_size=0),
    mistake("negative halo", ValueError, "halo must be at least 0, got -1 on axis 1 (columns)", halo=(1, -1)),
    mistake("stride and block", ValueError, "stride must divide the block_size, 4, got 3 on axis 0 (rows)", stride=3),
    mistake("empty map", ValueError, "at least one row and one column, got 0", **dict.fromkeys("qkv", MAP[:, :0])),
    mistake(
        "table of another window",
        ValueError,
        "rel_rows must be a table (2 * window - 1, width) = (11, 4) for a window of 6 (a block of 4",
        rel_rows=torch.zeros(7, 4),
    ),
    mistake(
        "a table of integers", TypeError, "rel_columns must be floating point", rel_columns=torch.zeros(11, 4).int()
    ),
    mistake("a table that is a list", TypeError, "rel_rows must be a tensor or None, got list", rel_rows=[0.0]),
    mistake("float block", TypeError, "block_size must be one int or a pair of ints, got 4.0", block_size=4.0),
    mistake("learned scale", TypeError, "scale must be a number or None, got Tensor", scale=torch.ones(1)),
    mistake("unknown backend", ValueError, "backend 'cuda' is unknown", backend="cuda"),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), MISTAKES)
def test_mistakes_say_what_is_wrong(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        halo_attention(**{"q": MAP, "k": MAP, "v": MAP, "block_size": 4, "halo": 1, **arguments})


def test_explain_names_the_backend_and_why() -> None:
    assert str(explain(halo_attention, MAP)) == "eager: the tensors are on cpu, where Triton does not run"
