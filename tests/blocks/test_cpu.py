"""All CPU paths of linear layers and 1x1 convolutions have the same result."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn

from attnzoo.blocks import Linear, PointwiseConv2d, fuse
from attnzoo.blocks.cpu import is_plain_cpu, prefers_convolution

# a size that runs as a convolution, one that runs as a matrix product, and an empty one
SIZES = [(2, 17, 19, 48), (1, 3, 5, 48), (0, 4, 4, 48)]
sizes = pytest.mark.parametrize("size", SIZES, ids=["large", "small", "empty"])


def plain(layer: nn.Module) -> nn.Module:
    """Returns torch's own layer with the same parameters."""
    layer = copy.deepcopy(layer)
    layer.__class__ = nn.Linear if isinstance(layer, Linear) else nn.Conv2d
    return layer


@sizes
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_forward_and_gradients_are_torchs(size: tuple[int, ...], kind: str) -> None:
    x = torch.randn(size, requires_grad=True)
    layer: nn.Module = Linear(48, 30)
    if kind == "convolution":
        layer, x = PointwiseConv2d(48, 30), x.detach().permute(0, 3, 1, 2).requires_grad_()
    expected = plain(layer)
    weights = torch.randn_like(expected(x))
    ours = torch.autograd.grad((layer(x) * weights).sum(), [x, *layer.parameters()])
    theirs = torch.autograd.grad((expected(x) * weights).sum(), [x, *expected.parameters()])
    torch.testing.assert_close(layer(x), expected(x))
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


def convolved(x: Tensor) -> bool:
    return is_plain_cpu(x) and prefers_convolution(x, len(x))


@pytest.mark.skipif(
    not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="other processors use torch's own path"
)
def test_only_large_inputs_in_float32_are_convolved() -> None:
    assert convolved(torch.empty(512, 64))
    assert not convolved(torch.empty(100, 640))
    assert not convolved(torch.empty(512, 16))
    assert not convolved(torch.empty(512, 64, dtype=torch.bfloat16))
    assert not convolved(torch.empty(512, 64, device="meta"))
    with torch.autocast("cpu"):
        assert not convolved(torch.empty(512, 64))


@sizes
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_fused_computes_the_same(size: tuple[int, ...], kind: str) -> None:
    x = torch.randn(size)
    layer: nn.Module = Linear(48, 30)
    if kind == "convolution":
        layer, x = PointwiseConv2d(48, 30, bias=False), x.permute(0, 3, 1, 2)
    network = fuse(nn.Sequential(layer).eval())
    with torch.no_grad():
        torch.testing.assert_close(network(x), plain(layer)(x))
        assert network(x[:1]).shape == plain(layer)(x[:1]).shape
    # with gradients the layer works as before
    network(x).sum().backward()
    assert layer.weight.grad is not None


def change_in_place(layer: Linear) -> None:
    layer.weight.mul_(2)


def change_by_loading(layer: Linear) -> None:
    layer.load_state_dict({name: -tensor for name, tensor in layer.state_dict().items()})


def change_the_parameter(layer: Linear) -> None:
    layer.weight = nn.Parameter(torch.randn_like(layer.weight))


@pytest.mark.parametrize("change", [change_in_place, change_by_loading, change_the_parameter])
def test_packed_weights_follow_the_parameter(change: object) -> None:
    layer, x = Linear(48, 30).eval().fuse(), torch.randn(60, 48)
    with torch.no_grad():
        before = layer(x)
        change(layer)  # type: ignore[operator]
        assert not torch.allclose(layer(x), before)
        torch.testing.assert_close(layer(x), plain(layer)(x))


def test_a_fused_layer_is_copied_stored_and_moved() -> None:
    layer, x = Linear(48, 30).eval().fuse(), torch.randn(60, 48)
    with torch.inference_mode():
        expected = layer(x)
        for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            torch.testing.assert_close(again(x), expected)
        assert set(layer.state_dict()) == {"weight", "bias"}
        assert layer.double()(x.double()).dtype == torch.float64
