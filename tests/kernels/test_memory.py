"""Peak memory of eager attention.

The tests count the memory of torch's CPU allocator, from the profiler's record of every allocation and release. This
is exact, the same in every run and on every machine, and independent of the memory of the interpreter, libraries and
the C heap. The resident size of a fresh process agrees up to the overhead of the heap, but varies with the system's
allocator.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from timm.models.swin_transformer import WindowAttention, window_partition, window_reverse
from torch import Tensor
from torch.autograd.profiler import profile

from attnzoo.kernels import halo_attention, neighborhood_attention, routed_attention, window_attention

MIB = 2**20


def peak_of(function: Callable[[], object]) -> int:
    """Returns the peak memory of a call's tensors in bytes, above the level before the call."""
    with profile(profile_memory=True) as record:
        function()
    changes = [event for event in record.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def test_the_meter_counts_allocations() -> None:
    def two_at_once_then_one() -> None:
        first = torch.ones(MIB)
        second = first + 1
        del first
        second.add_(1)
        torch.zeros(MIB // 2)

    assert 8 * MIB <= peak_of(two_at_once_then_one) <= 8 * MIB + 4096


@pytest.mark.parametrize(
    ("batch", "allowed"),
    [
        # output and gradients of q, k, v take 6.1 MiB each at batch 8
        pytest.param(8, 150, id="batch 8"),
        # additional memory does not grow with the batch
        pytest.param(32, 150 + 4 * 18.4, id="batch 32"),
    ],
)
def test_training_step(batch: int, allowed: float) -> None:
    q, k, v = (torch.randn(batch, 56, 56, 2, 32, requires_grad=True) for _ in range(3))
    bias = torch.randn(2, 13, 13, requires_grad=True)

    def step() -> None:
        neighborhood_attention(q, k, v, 7, bias=bias, backend="eager").sum().backward()

    step()
    for x in (q, k, v, bias):
        x.grad = None
    peak = peak_of(step)
    assert peak <= allowed * MIB, f"{peak / MIB:.1f} MiB, allowed {allowed:.1f}"


def test_inference() -> None:
    q, k, v = (torch.randn(8, 56, 56, 2, 32) for _ in range(3))
    bias = torch.randn(2, 13, 13)
    peak = peak_of(lambda: neighborhood_attention(q, k, v, 7, bias=bias, backend="eager"))
    assert peak <= 60 * MIB, f"{peak / MIB:.1f} MiB"


@pytest.mark.parametrize("shift", [0, 3], ids=["plain", "shift"])
def test_window_training_step_beside_timms(shift: int) -> None:
    """Compares with timm at Swin's first stage, with the projections, which take most of the memory of both."""
    attention = WindowAttention(96, 3, window_size=7)
    attention.fused_attn = True
    x = torch.randn(8, 56, 56, 96)
    table = torch.randn(3, 13, 13, requires_grad=True)
    mask = torch.zeros(64, 49, 49) if shift else None

    def ours() -> Tensor:
        q, k, v = attention.qkv(x).unflatten(-1, (3, 3, 32)).unbind(3)
        return attention.proj(window_attention(q, k, v, 7, shift=shift, bias=table, backend="eager").flatten(3))

    def timms() -> Tensor:
        windows = window_partition(x.roll((-shift, -shift), (1, 2)), (7, 7)).flatten(1, 2)
        out = attention(windows, mask).unflatten(1, (7, 7))
        return window_reverse(out, (7, 7), 56, 56).roll((shift, shift), (1, 2))

    peaks = []
    for way in (ours, timms):
        way().sum().backward()
        attention.zero_grad()
        peaks.append(peak_of(lambda way=way: way().sum().backward()))
    assert peaks[0] <= 0.8 * peaks[1], [f"{peak / MIB:.1f} MiB" for peak in peaks]


def test_window_inference() -> None:
    q, k, v = (torch.randn(8, 56, 56, 3, 32) for _ in range(3))
    bias = torch.randn(3, 13, 13)
    peak = peak_of(lambda: window_attention(q, k, v, 7, shift=3, bias=bias, backend="eager"))
    # the output takes 9.2 MiB
    assert peak <= 16 * MIB, f"{peak / MIB:.1f} MiB"


@pytest.mark.parametrize(
    ("size", "heads", "topk", "batch", "allowed"),
    [
        # output and gradients of q, k, v take four times the size of q: 6.1, 3.1 and 1.5 MiB at batch 8
        pytest.param(56, 2, 1, 8, 32, id="56x56 batch 8"),
        pytest.param(28, 4, 4, 8, 14, id="28x28 batch 8"),
        pytest.param(14, 8, 16, 8, 9, id="14x14 batch 8"),
        # additional memory does not grow with the batch
        pytest.param(28, 4, 4, 32, 14 + 4 * 9.2, id="28x28 batch 32"),
    ],
)
def test_routed_training_step(size: int, heads: int, topk: int, batch: int, allowed: float) -> None:
    q, k, v = (torch.randn(batch, size, size, heads, 32, requires_grad=True) for _ in range(3))
    routes = torch.rand(batch, 49, 49).topk(topk).indices

    def step() -> None:
        routed_attention(q, k, v, routes, 7, backend="eager").sum().backward()

    step()
    for x in (q, k, v):
        x.grad = None
    peak = peak_of(step)
    assert peak <= allowed * MIB, f"{peak / MIB:.1f} MiB, allowed {allowed:.1f}"


@pytest.mark.parametrize(
    ("batch", "allowed"),
    [
        # output and gradients of q, k, v take 4 MiB each at batch 8; padded keys and values 5.6, their gradients 6.3
        pytest.param(8, 49, id="batch 8"),
        # additional memory does not grow with the batch
        pytest.param(32, 49 + 3 * 36, id="batch 32"),
    ],
)
def test_halo_training_step(batch: int, allowed: float) -> None:
    q, k, v = (torch.randn(batch, 32, 32, 4, 32, requires_grad=True) for _ in range(3))
    tables = [torch.randn(27, 32, requires_grad=True) for _ in range(2)]

    def step() -> None:
        out = halo_attention(q, k, v, 8, 3, rel_rows=tables[0], rel_columns=tables[1], backend="eager")
        out.sum().backward()

    step()
    for x in (q, k, v, *tables):
        x.grad = None
    peak = peak_of(step)
    assert peak <= allowed * MIB, f"{peak / MIB:.1f} MiB, allowed {allowed:.1f}"
