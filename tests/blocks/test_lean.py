"""What keeps less computes the same, forward, back and back again."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Mlp
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck

from attnzoo.blocks import ChannelsLastConv2d, ConvNormStem, LeanMlp
from attnzoo.blocks.lean import gelu_conv


def as_timms(mlp: LeanMlp) -> Mlp:
    plain = Mlp(mlp.fc1.in_features, mlp.fc1.out_features, act_layer=nn.GELU).to(mlp.fc1.weight.dtype)
    plain.load_state_dict(mlp.state_dict())
    return plain


def kept(module: nn.Module, x: Tensor) -> int:
    """Numbers kept for the way back, parameters aside."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    storages: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        storages[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        # the result lives as long as what it kept, so that no address is used twice
        result = module(x)
    assert result.requires_grad
    return sum(size for address, size in storages.items() if address not in parameters)


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
def test_mlp_is_timms(autocast: bool) -> None:
    mlp = LeanMlp(6, 15)
    answers = []
    for module in (mlp, as_timms(mlp)):
        x = torch.linspace(-3, 3, 2 * 4 * 6).view(2, 4, 6).requires_grad_()
        with torch.autocast("cpu", enabled=autocast):
            out = module(x)
        out.float().square().sum().backward()
        answers.append([out, x.grad, *(p.grad for p in module.parameters())])
    for ours, theirs in zip(*answers, strict=True):
        assert ours.dtype == theirs.dtype
        torch.testing.assert_close(ours, theirs)


def test_mlp_keeps_its_hidden_layer_once() -> None:
    mlp, x = LeanMlp(6, 15), torch.randn(2, 4, 6)
    assert kept(as_timms(mlp), x) - kept(mlp, x) == 2 * 4 * 15


def test_second_derivatives() -> None:
    mlp, x = LeanMlp(3, 5).double(), torch.randn(2, 2, 3, dtype=torch.double, requires_grad=True)
    conv = ChannelsLastConv2d(2, 3, 3, stride=2, padding=1).double()
    image = torch.randn(1, 3, 4, 2, dtype=torch.double, requires_grad=True)
    for function, inputs in (
        (lambda x, *_: mlp(x), (x, *mlp.parameters())),
        (lambda x, *_: gelu_conv(x, conv), (image, *conv.parameters())),
    ):
        assert gradcheck(function, inputs)
        assert gradgradcheck(function, inputs)


@pytest.mark.parametrize("frozen", [False, True], ids=["learns", "frozen"])
def test_frozen_weights_get_no_gradient(frozen: bool) -> None:
    mlp, x = LeanMlp(6, 15), torch.randn(2, 4, 6, requires_grad=True)
    mlp.fc2.requires_grad_(not frozen)
    mlp(x).sum().backward()
    assert (mlp.fc2.weight.grad is None) == frozen
    assert x.grad is not None


def test_what_listens_or_stands_in_is_called() -> None:
    mlp, x = LeanMlp(6, 15), torch.randn(2, 4, 6)
    calls = []
    handle = mlp.fc2.register_forward_hook(lambda *_: calls.append("hook"))
    mlp(x)
    handle.remove()
    mlp.fc2 = nn.Sequential(mlp.fc2, nn.Identity())
    mlp.fc2[1].register_forward_hook(lambda *_: calls.append("wrapped"))
    mlp(x)
    assert calls == ["hook", "wrapped"]


def test_stem_is_its_layers_and_keeps_less() -> None:
    stem = ConvNormStem(3, (4, 6, 8)).double()
    again, x = copy.deepcopy(stem), torch.randn(2, 3, 17, 24, dtype=torch.double)
    expected = again.layers(x.permute(0, 2, 3, 1))
    out = stem(x)
    torch.testing.assert_close(out, expected)
    for result in (out, expected):
        result.square().sum().backward()
    for ours, plain in zip(stem.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, plain.grad)
    for ours, plain in zip(stem.buffers(), again.buffers(), strict=True):
        torch.testing.assert_close(ours, plain)
    # less what GELU gave, twice, of two images: maps of 9x12x4 and 5x6x6
    assert kept(again.layers, x.permute(0, 2, 3, 1).contiguous()) - kept(stem, x) == 2 * (9 * 12 * 4 + 5 * 6 * 6)
