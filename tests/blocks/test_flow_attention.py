"""Flow attention: its sums and products as the paper writes them, and the causal form position by position."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attnzoo.blocks import FlowAttention, FlowCrossAttention, causal_flow_attended, flow_attended

_EPS = 1e-6


def tokens(count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(2, count, 12, dtype=dtype)


def plain(q: Tensor, k: Tensor, v: Tensor, eps: float) -> Tensor:
    """Flow attention of one head (T, D), (S, D) with one query and key after another."""
    q, k = q.sigmoid(), k.sigmoid()
    shifted_q, shifted_k = q + _EPS, k + _EPS
    inward = 1 / (shifted_q @ (k.sum(0) + _EPS) + eps)
    outward = 1 / (shifted_k @ (q.sum(0) + _EPS) + eps)
    gate = (shifted_q @ ((k * outward[:, None]).sum(0) + _EPS) + eps) * len(q) / len(k)
    rest = (shifted_k @ ((q * inward[:, None]).sum(0) + _EPS) + eps).clamp(-1, 1)
    weighted = v * rest.softmax(0)[:, None] * len(k)
    return (q @ k.T @ weighted) * (inward * gate.sigmoid())[:, None]


@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_it_is_the_sum_over_all_pairs(eps: float) -> None:
    q, k, v = tokens(7), tokens(5), tokens(5)
    found = flow_attended(q, k, v, 3, eps)
    for image in range(2):
        for head in range(3):
            part = slice(4 * head, 4 * head + 4)
            expected = plain(q[image, :, part], k[image, :, part], v[image, :, part], eps)
            torch.testing.assert_close(found[image, :, part], expected)


def causal_by_positions(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal flow attention of one head, with every sum up to a position computed by itself."""
    q, k = q.sigmoid(), k.sigmoid()
    counts = range(1, len(q) + 1)
    inward = torch.stack([n / ((q[n - 1] + _EPS) @ (k[:n].sum(0) + _EPS)) for n in counts])
    outward = torch.stack([n / ((k[n - 1] + _EPS) @ (q[:n].sum(0) + _EPS)) for n in counts])
    gates = [(q[n - 1] + _EPS) @ ((k * outward[:, None])[:n].sum(0) + _EPS) / n for n in counts]
    rests = [(k[n - 1] + _EPS) @ ((q * inward[:, None])[:n].sum(0) + _EPS) / n for n in counts]
    rest = torch.stack(rests).clamp(-1, 1).exp()
    competition = torch.stack([rest[n - 1] / rest[:n].sum() * n for n in counts])
    weighted = v * competition[:, None]
    out = [q[n - 1] * inward[n - 1] / n @ (k[:n].T @ weighted[:n]) * gates[n - 1].sigmoid() for n in counts]
    return torch.stack(out)


# shorter than a chunk of queries, and longer
@pytest.mark.parametrize("length", [5, 70])
def test_causal_form_position_by_position(length: int) -> None:
    # one image, in heads of four channels
    q, k, v = (tokens(length)[:1].requires_grad_() for _ in range(3))
    found = causal_flow_attended(q, k, v, 3)
    parts = [slice(4 * head, 4 * head + 4) for head in range(3)]
    expected = torch.cat([causal_by_positions(q[0, :, p], k[0, :, p], v[0, :, p]) for p in parts], 1).unsqueeze(0)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(found)
    gradients = (torch.autograd.grad((out * weights).sum(), [q, k, v]) for out in (found, expected))
    for mine, wanted in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_causal_block_sees_no_later_tokens() -> None:
    layer, x = FlowCrossAttention(12, 3, causal=True).double(), tokens(9)
    changed = torch.cat([x[:, :5], tokens(4)], 1)
    torch.testing.assert_close(layer(x, x, x)[:, :5], layer(changed, changed, changed)[:, :5])
    with pytest.raises(ValueError, match="a key for each query"):
        layer(x, x[:, :4], x[:, :4])


def test_a_map_is_its_tokens() -> None:
    layer, x = FlowAttention(12, 3).double(), tokens(15).reshape(2, 3, 5, 12)
    q, k, v = layer.qkv(x.flatten(1, 2)).chunk(3, 2)
    torch.testing.assert_close(layer(x).flatten(1, 2), layer.proj(flow_attended(q, k, v, 3, _EPS)))


@pytest.mark.parametrize("attend", [flow_attended, causal_flow_attended])
def test_half_precision_and_autocast_compute_in_float32(attend) -> None:
    # the flow of so many tokens overflows float16
    q, k, v = (3 + tokens(20000, torch.float16) for _ in range(3))
    expected = attend(q.float(), k.float(), v.float(), 1).half()
    torch.testing.assert_close(attend(q, k, v, 1), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(attend(q, k, v, 1), expected)
