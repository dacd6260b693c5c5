"""A relative position table expanded over a map equals the bias of the scores of neighborhood attention."""

from __future__ import annotations

import pytest
import torch

from attnzoo.kernels import neighborhood_bias, neighborhood_qk


@pytest.mark.parametrize(("kernel", "size"), [((3, 3), (5, 7)), ((5, 3), (5, 9)), ((4, 2), (6, 5)), ((1, 1), (2, 3))])
def test_it_is_what_the_scores_get(kernel: tuple[int, int], size: tuple[int, int]) -> None:
    table = torch.randn(2, 2 * kernel[0] - 1, 2 * kernel[1] - 1, dtype=torch.float64, requires_grad=True)
    q = k = torch.zeros(1, *size, 2, 1, dtype=torch.float64)
    expected = neighborhood_qk(q, k, kernel, bias=table, backend="reference")[0]
    spread = neighborhood_bias(table, size)
    assert torch.equal(spread, expected)
    weights = torch.randn_like(spread)
    (ours,) = torch.autograd.grad(spread, table, weights)
    (wanted,) = torch.autograd.grad(expected, table, weights)
    torch.testing.assert_close(ours, wanted)


def test_it_compiles() -> None:
    table = torch.randn(2, 5, 5)
    compiled = torch.compile(lambda x: neighborhood_bias(x, (4, 6)) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(table), neighborhood_bias(table, (4, 6)) + 1)


@pytest.mark.parametrize(
    ("table", "size", "error", "message"),
    [
        (torch.zeros(2, 4, 5), (9, 9), ValueError, r"of a window, got \(2, 4, 5\)"),
        (torch.zeros(5, 5), (9, 9), ValueError, r"of a window, got \(5, 5\)"),
        (torch.zeros(2, 5, 5), (9, 2), ValueError, r"must not exceed the map, \(9, 2\), got a side of 3"),
        (torch.zeros(2, 5, 5, dtype=torch.long), (9, 9), TypeError, "bias must be a floating-point tensor"),
        (None, (9, 9), TypeError, "bias must be a floating-point tensor"),
    ],
    ids=["even", "axes", "map", "dtype", "none"],
)
def test_what_does_not_fit_is_refused(table: object, size: tuple[int, int], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        neighborhood_bias(table, size)  # type: ignore[arg-type]
