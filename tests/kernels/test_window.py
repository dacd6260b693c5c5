"""Eager execution of window attention, compared with the reference in float64: values and every gradient."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F
from comparison import Run, assert_as_exact_as, assert_close, roundings, upstream
from timm.models.swin_transformer import get_relative_position_index, window_partition, window_reverse
from torch import Tensor
from torch.autograd.profiler import profile
from window_cases import CASES, Case, random_case, run

from attnzoo.kernels import window_attention
from attnzoo.kernels.window import eager_chunks, plan

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)

CHUNK_SIZES = ("FORWARD_SCORES", "BACKWARD_SCORES", "IMAGE_SCORES")


def runs(case: Case, dtype: torch.dtype) -> tuple[Run, Run, Run]:
    """Returns the results of eager, of plain torch in the same dtype, and of float64."""
    inputs = case.inputs(dtype)
    truth = run(case, inputs, "reference", torch.float64)
    return run(case, inputs, "eager"), run(case, inputs, "reference"), truth


def check(case: Case, dtype: torch.dtype) -> None:
    assert_as_exact_as(*runs(case, dtype), dtype)


@cases
def test_eager_is_as_exact_as_plain_torch(case: Case) -> None:
    check(case, torch.float32)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uses chunks of one window, which small maps never have otherwise."""
    for name in CHUNK_SIZES:
        monkeypatch.setattr(eager_chunks, name, 64)


@pytest.mark.usefixtures("small_chunks")
@cases
def test_chunks_make_no_difference(case: Case) -> None:
    check(case, torch.float32)


def swin(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, case: Case) -> Tensor:
    """Computes window attention as Swin does: pad, roll, partition, explicit mask of regions, reverse, roll, crop."""
    (H, W), (wh, ww), (sh, sw) = case.size, case.windows, case.shifts
    padded = H + -H % wh, W + -W % ww

    def cut(x: Tensor) -> Tensor:
        # (B, H, W, h, D) -> (B * windows, h, T, D)
        x = F.pad(x, (0, 0, 0, 0, 0, padded[1] - W, 0, padded[0] - H)).flatten(3)
        x = window_partition(x.roll((-sh, -sw), (1, 2)), (wh, ww)).flatten(1, 2)
        return x.unflatten(2, (case.heads, -1)).transpose(1, 2)

    region = torch.zeros(1, *padded, 1)
    region[:, padded[0] - sh :] += 1
    region[:, :, padded[1] - sw :] += 2
    region = window_partition(region, (wh, ww)).flatten(1)
    is_hidden = (region[:, None, :] != region[:, :, None]).repeat(len(q), 1, 1).unsqueeze(1)
    scores = cut(q) @ cut(k).mT * (case.width**-0.5 if case.scale is None else case.scale)
    if bias is not None:
        # timm uses query - key as the index
        scores = scores + bias.flatten(1)[:, get_relative_position_index(wh, ww).T]
    out = scores.masked_fill(is_hidden, -torch.inf).softmax(-1) @ cut(v)
    out = window_reverse(out.transpose(1, 2).flatten(2).unflatten(1, (wh, ww)), (wh, ww), *padded)
    return out.roll((sh, sw), (1, 2))[:, :H, :W].unflatten(3, (case.heads, -1))


@pytest.mark.parametrize("case", [case for case in CASES if case.batch], ids=lambda case: case.name)
def test_reference_is_swins(case: Case) -> None:
    inputs = case.inputs(torch.float64)
    bias = inputs.get("bias")
    want = swin(inputs["q"], inputs["k"], inputs["v"], bias, case)
    out = window_attention(**inputs, **case.arguments, backend="reference")
    assert_close("output", out, want, 1e-13)
    grads, true = (torch.autograd.grad(x, list(inputs.values()), upstream(out)) for x in (out, want))
    for name, grad, true_grad in zip(inputs, grads, true, strict=True):
        assert_close(f"gradient of {name}", grad, true_grad, 1e-11)


@pytest.mark.parametrize("backend", ["reference", "eager"])
@pytest.mark.parametrize(("size", "shift"), [((15, 20), 2), ((13, 17), 0), ((13, 17), 3)], ids=str)
def test_ragged_maps_are_torchvisions(size: tuple[int, int], shift: int, backend: str) -> None:
    swin_transformer = pytest.importorskip("torchvision.models.swin_transformer")
    x, weight = torch.randn(2, *size, 12, dtype=torch.float64), torch.randn(36, 12, dtype=torch.float64)
    table = torch.randn(3, 9, 9, dtype=torch.float64)
    want = swin_transformer.shifted_window_attention(
        x,
        weight,
        torch.eye(12, dtype=torch.float64),
        table.flatten(1)[:, get_relative_position_index(5, 5).T].unsqueeze(0),
        [5, 5],
        num_heads=3,
        shift_size=[shift, shift],
    )
    q, k, v = F.linear(x, weight).unflatten(3, (3, 3, 4)).unbind(3)
    out = window_attention(q, k, v, 5, shift=shift, bias=table, backend=backend).flatten(3)
    # its mask is -100
    assert_close("output", out, want, 1e-12)


@pytest.mark.parametrize("backend", ["reference", "eager"])
def test_a_ragged_map_is_the_padded_map_cropped(backend: str) -> None:
    case = Case("ragged", (9, 13), (4, 5), shift=(3, 1))
    inputs = case.inputs(torch.float64)
    out = window_attention(**inputs, **case.arguments, backend=backend)
    padded = {name: F.pad(x, (0, 0, 0, 0, 0, 2, 0, 3)) for name, x in inputs.items() if name != "bias"}
    whole = window_attention(**padded, bias=inputs["bias"], **case.arguments, backend=backend)
    assert_close("output", out, whole[:, :9, :13], 1e-14)


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("shift", [0, 3], ids=["plain", "shift"])
@pytest.mark.parametrize("size", [(7, 7), (14, 14), (28, 35), (33, 20)], ids=str)
def test_inference_is_fused(size: tuple[int, int], shift: int, has_bias: bool) -> None:
    """scaled_dot_product_attention silently falls back to its slow form, for instance because of the mask's shape."""
    inputs = Case("fused", size, 7, has_bias=has_bias).inputs(torch.float32)
    with torch.no_grad(), profile() as record:
        window_attention(**inputs, window_size=7, shift=shift, backend="eager")
    names = {event.name for event in record.function_events}
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in names
    assert "aten::_scaled_dot_product_attention_math" not in names


def draw(seed: int, monkeypatch: pytest.MonkeyPatch) -> Case:
    """A random case, and random sizes of chunks."""
    sizes = random.Random(-seed)
    for name in CHUNK_SIZES:
        monkeypatch.setattr(eager_chunks, name, sizes.choice([64, 4096, 512 * 1024]))
    torch.manual_seed(seed)
    return random_case(seed, 24)


@pytest.mark.usefixtures("poisoned_allocations")
@pytest.mark.parametrize("first", range(0, 30, 10), ids=lambda first: f"seeds {first} to {first + 9}")
def test_random_shapes(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(first, first + 10):
        check(draw(seed, monkeypatch), torch.float32)


# Of many draws, plain torch is exact by chance in some: the worst of a hundred draws is compared.
@pytest.mark.slow
@pytest.mark.usefixtures("poisoned_allocations")
@pytest.mark.parametrize("first", [1000, 1100], ids=lambda first: f"seeds {first} to {first + 99}")
def test_many_random_shapes(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    worst: dict[str, tuple[float, float]] = {}
    for seed in range(first, first + 100):
        for name, (ours, plain) in roundings(*runs(draw(seed, monkeypatch), torch.float32), torch.float32).items():
            old = worst.get(name, (0, 0))
            worst[name] = max(old[0], ours), max(old[1], plain)
    assert {name: pair for name, pair in worst.items() if not pair[0] <= 2 * pair[1] + 4} == {}


def test_windows_of_one_class_share_a_mask() -> None:
    """Only windows across the wrap are masked: four classes, however large the map."""
    made = plan.plan_of((56, 7, 3), (63, 7, 3), 2401, "cpu")
    assert len(made.mask) == 4
    assert sum(chunk.only_class == 0 for chunk in made.chunks) == 7 * 8
    assert plan.plan_of((56, 7, 0), (63, 7, 0), 2401, "cpu").mask is None
