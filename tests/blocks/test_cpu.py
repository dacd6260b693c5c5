"""All CPU paths of linear layers and 1x1 convolutions have the same result."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from attnzoo.blocks import channels_last_conv, cpu, fuse, linear, pointwise_conv
from attnzoo.blocks.cpu import pack, prefers_convolution
from attnzoo.blocks.shortcuts import is_plain_cpu

# a size that runs as a convolution, one that runs as a matrix product, and an empty one
SIZES = [(2, 17, 19, 48), (1, 3, 5, 48), (0, 4, 4, 48)]
sizes = pytest.mark.parametrize("size", SIZES, ids=["large", "small", "empty"])


KINDS = {
    "linear": (linear, nn.Linear(48, 30), lambda x: x),
    "convolution": (pointwise_conv, nn.Conv2d(48, 30, 1), lambda x: x.permute(0, 3, 1, 2)),
    "channels last": (channels_last_conv, nn.Conv2d(48, 30, 1, bias=False), lambda x: x),
}
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True)
def _with_avx512(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paths of AMD's processors with AVX512, which run everywhere."""
    monkeypatch.setattr(cpu, "_HAS_AVX512", True)
    monkeypatch.setattr(cpu, "_LEAST_ROWS", 128)


def called(kind: str, layer: nn.Module, x: Tensor) -> Tensor:
    """Returns what torch's own layer computes."""
    return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1) if kind == "channels last" else layer(x)


@pytest.mark.parametrize("has_avx512", [True, False])
@sizes
@kinds
def test_forward_and_gradients_are_torchs(
    size: tuple[int, ...], kind: str, has_avx512: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "_HAS_AVX512", has_avx512)
    call, layer, layout = KINDS[kind]
    x = layout(torch.randn(size)).requires_grad_()
    found, expected = call(layer, x), called(kind, layer, x)
    torch.testing.assert_close(found, expected)
    weights = torch.randn_like(expected)
    inputs = [x, *layer.parameters()]
    for ours, wanted in zip(
        torch.autograd.grad((found * weights).sum(), inputs),
        torch.autograd.grad((expected * weights).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)


def convolved(x: Tensor) -> bool:
    return is_plain_cpu(x) and prefers_convolution(x, len(x))


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="other processors use torch's own path"
)
def test_only_large_inputs_in_float32_are_convolved(monkeypatch: pytest.MonkeyPatch) -> None:
    assert convolved(torch.empty(512, 64))
    assert not convolved(torch.empty(100, 640))
    assert not convolved(torch.empty(512, 16))
    assert not convolved(torch.empty(512, 64, dtype=torch.bfloat16))
    assert not convolved(torch.empty(512, 64, device="meta"))
    with torch.autocast("cpu"):
        assert not convolved(torch.empty(512, 64))
    monkeypatch.setattr(cpu, "_HAS_AVX512", False)
    assert not convolved(torch.empty(512, 64))


@sizes
@kinds
def test_fused_computes_the_same(size: tuple[int, ...], kind: str) -> None:
    call, layer, layout = KINDS[kind]
    layer, x = copy.deepcopy(layer), layout(torch.randn(size))
    pack(layer)
    with torch.no_grad():
        torch.testing.assert_close(call(layer, x), called(kind, layer, x))
        assert call(layer, x[:1]).shape == called(kind, layer, x)[:1].shape
    # with gradients the layer works as before
    call(layer, x).sum().backward()
    assert layer.weight.grad is not None


def packed() -> nn.Linear:
    """Returns a linear layer with packed weights."""
    return fuse(nn.Sequential(nn.Linear(48, 30)).eval())[0]


def change_in_place(layer: nn.Linear) -> None:
    layer.weight.mul_(2)


def change_by_loading(layer: nn.Linear) -> None:
    layer.load_state_dict({name: -tensor for name, tensor in layer.state_dict().items()})


def change_the_parameter(layer: nn.Linear) -> None:
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


def change_data(layer: nn.Linear) -> None:
    layer.weight.data.mul_(3)


def change_through_numpy(layer: nn.Linear) -> None:
    layer.weight.detach().numpy()[...] *= 3


def change_vector(layer: nn.Linear) -> None:
    nn.utils.vector_to_parameters(3 * nn.utils.parameters_to_vector(layer.parameters()), layer.parameters())


def prune_data(layer: nn.Linear) -> None:
    layer.weight.data[:, ::4] = 0


CHANGES = [
    change_in_place,
    change_by_loading,
    change_the_parameter,
    change_data,
    change_through_numpy,
    change_vector,
    prune_data,
]


@pytest.mark.parametrize("change", CHANGES)
def test_packed_weights_follow_the_parameter(change: object) -> None:
    layer, x = packed(), torch.randn(60, 48)
    with torch.no_grad():
        before = linear(layer, x)
        change(layer)  # type: ignore[operator]
        assert not torch.allclose(linear(layer, x), before)
        torch.testing.assert_close(linear(layer, x), layer(x))


def test_a_fused_layer_is_copied_stored_and_moved() -> None:
    layer, x = packed(), torch.randn(60, 48)
    with torch.inference_mode():
        expected = linear(layer, x)
        for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(linear(again, x), expected)
        assert set(layer.state_dict()) == {"weight", "bias"}
        assert linear(layer.double(), x.double()).dtype == torch.float64
