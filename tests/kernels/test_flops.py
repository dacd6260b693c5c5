"""The operators have formulas for torch's counter of operations."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, flop_registry

import attnzoo.kernels  # noqa: F401  registers

B, H, W, HEADS, D, E = 2, 9, 12, 3, 8, 4
# the arguments after q, k and v, and the keys that each query attends to
CALLS = {
    "window_attention": ((None, [3, 4], [0, 0], 1.0), 12),
    "neighborhood_attention": ((None, [3, 5], [1, 1], [1, 1], [False, False], 1.0), 15),
    "halo_attention": ((None, None, [3, 3], [1, 2], [1, 1], 1.0), 35),
    "routed_attention": ((torch.zeros(B, 12, 2, dtype=torch.long, device="meta"), [3, 4], 1.0), 18),
}


@pytest.mark.parametrize("name", CALLS)
def test_operators_are_counted(name: str) -> None:
    arguments, keys = CALLS[name]
    q, k = (torch.empty(B, H, W, HEADS, D, device="meta") for _ in range(2))
    v = torch.empty(B, H, W, HEADS, E, device="meta")
    operator = getattr(torch.ops.attnzoo, name)
    with FlopCounterMode(display=False) as counter:
        operator(q, k, v, *arguments)
    assert counter.get_total_flops() == 2 * B * H * W * HEADS * keys * (D + E)
    assert getattr(torch.ops.attnzoo, f"{name}_backward") in flop_registry


def test_a_scan_is_counted_by_its_states() -> None:
    u, B, A = torch.empty(2, 10, 1, D), torch.empty(2, 10, HEADS, E), torch.empty(1, D, E)
    u, B, A = (x.to("meta") for x in (u, B, A))
    with FlopCounterMode(display=False) as counter:
        torch.ops.attnzoo.selective_scan(u, u, A, B, B, None, None)
    assert counter.get_total_flops() == 6 * 2 * 10 * HEADS * D * E
    assert torch.ops.attnzoo.selective_scan_backward in flop_registry


def test_attention_on_a_cpu_is_counted() -> None:
    q = torch.randn(2, 3, 10, 8, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        out = F.scaled_dot_product_attention(q, q, q)
        forward = counter.get_total_flops()
        out.sum().backward()
    assert forward == 2 * math.prod((2, 3, 10, 10)) * 16
    assert counter.get_total_flops() > 3 * forward
