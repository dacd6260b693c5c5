"""Invalid arguments of window attention: a message with the argument, its value and what to do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from attnzoo.kernels import explain, window_attention

MAP = torch.zeros(2, 9, 12, 3, 4)
TABLE = torch.zeros(3, 5, 5)


def attend(q: Any = MAP, k: Any = MAP, v: Any = MAP, window_size: Any = 3, **arguments: Any) -> Tensor:
    return window_attention(q, k, v, window_size, **arguments)


def mistake(name: str, kind: type[Exception], message: str, **arguments: Any) -> Any:
    return pytest.param(arguments, kind, message, id=name)


MISTAKES = [
    # tensors
    mistake("q is a list", TypeError, "q must be a tensor (B, H, W, heads, width), got list", q=[1.0]),
    mistake(
        "heads not split",
        ValueError,
        "q must have five axes (B, H, W, heads, width), got (2, 9, 12, 12): "
        "split the channels into heads with unflatten(-1, (heads, width))",
        q=torch.zeros(2, 9, 12, 12),
    ),
    mistake("maps differ", ValueError, "k must have the batch, map and heads of q, (2, 9, 12, 3)", k=MAP[:, 1:]),
    mistake("widths of q and k", ValueError, "k must have the width of q, 4, got 3", k=MAP[..., :3]),
    mistake("integers", TypeError, "q must be floating point, got torch.int64", q=MAP.long()),
    mistake("dtypes differ", TypeError, "v must have the dtype of q, torch.float32, got torch.float64", v=MAP.double()),
    mistake("devices differ", ValueError, "v must be on the device of q, cpu, got meta", v=MAP.to("meta")),
    mistake(
        "empty map",
        ValueError,
        "q must have a map of at least one row and one column, got 0 on axis 1 (columns)",
        q=MAP[:, :, :0],
        k=MAP[:, :, :0],
        v=MAP[:, :, :0],
    ),
    # the window
    mistake("window 0", ValueError, "window_size must be at least 1, got 0 on axis 0 (rows)", window_size=0),
    mistake(
        "negative window on columns",
        ValueError,
        "window_size must be at least 1, got -3 on axis 1 (columns)",
        window_size=(3, -3),
    ),
    mistake("float window", TypeError, "window_size must be one int or a pair of ints, got 3.0", window_size=3.0),
    mistake("bool window", TypeError, "window_size must be one int or a pair of ints, got True", window_size=True),
    mistake(
        "three windows",
        ValueError,
        "window_size must be one int or a pair (rows, columns), got 3 values",
        window_size=(3, 3, 3),
    ),
    mistake(
        "shift by a window",
        ValueError,
        "shift must be between 0 and window_size - 1, 2, got 3 on axis 0 (rows): "
        "a shift by a whole window changes nothing",
        shift=3,
    ),
    mistake(
        "negative shift",
        ValueError,
        "shift must be between 0 and window_size - 1, 4, got -1 on axis 1 (columns)",
        window_size=(3, 5),
        shift=(1, -1),
    ),
    mistake("float shift", TypeError, "shift must be one int or a pair of ints, got 1.5", shift=1.5),
    mistake("shift is None", TypeError, "shift must be one int or a pair of ints, got None", shift=None),
    mistake("pair of one", ValueError, "shift must be one int or a pair (rows, columns), got 1 values", shift=[1]),
    # bias and scale
    mistake(
        "bias for another window",
        ValueError,
        "bias must be a table (heads, 2 * rows - 1, 2 * columns - 1) = (3, 9, 5) for a 5 x 3 window, got (3, 5, 5)",
        window_size=(5, 3),
        bias=TABLE,
    ),
    mistake("bias of other heads", ValueError, "bias must be a table", bias=TABLE[:2]),
    mistake("bias is a number", TypeError, "bias must be a tensor or None, got float", bias=0.5),
    mistake("bias of integers", TypeError, "bias must be floating point, got torch.int32", bias=TABLE.int()),
    mistake("bias elsewhere", ValueError, "bias must be on the device of q, cpu, got meta", bias=TABLE.to("meta")),
    mistake(
        "learned scale",
        TypeError,
        "scale must be a number or None, got Tensor: multiply q by a learned scale and pass 1.0",
        scale=torch.ones(1),
    ),
    # backends
    mistake("unknown backend", ValueError, "backend 'cuda' is unknown", backend="cuda"),
    mistake("backend is a number", TypeError, "backend must be a string or None, got int", backend=1),
]


@pytest.mark.parametrize(("arguments", "kind", "message"), MISTAKES)
def test_mistakes_say_what_is_wrong(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)):
        attend(**arguments)


def test_explain_names_the_backend_and_why() -> None:
    assert str(explain(window_attention, MAP)) == "eager: the tensors are on cpu, where Triton does not run"
    assert str(explain(window_attention, MAP, backend="reference")) == "reference: named by the caller"
