"""Mixing of tokens: the fast path, and interpolation of the weights to other maps."""

from __future__ import annotations

import torch

from attnzoo.blocks import MixerGate, TokenMlp


def test_token_mlp_is_an_mlp_of_every_channel() -> None:
    layer, x = TokenMlp((3, 5), 8), torch.randn(2, 3, 5, 4)
    tokens = x.flatten(1, 2).transpose(1, 2)
    expected = layer.fc2(layer.act(layer.fc1(tokens))).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), expected)
    # what replaces a layer is called
    layer.fc2 = torch.nn.Sequential(layer.fc2, torch.nn.ReLU())
    torch.testing.assert_close(layer(x), expected.relu())


def test_constant_maps_of_any_size_have_the_same_hidden_values() -> None:
    torch.manual_seed(0)
    layer = TokenMlp((4, 4), 8)
    with torch.no_grad():
        layer.fc2.weight.fill_(0.1)
        layer.fc2.bias.zero_()
        small = layer(torch.ones(1, 4, 4, 3))
        large = layer(torch.ones(1, 8, 12, 3))
    assert large.shape == (1, 8, 12, 3)
    torch.testing.assert_close(large, small.mean().expand_as(large), atol=1e-5, rtol=1e-5)


def test_the_mixer_is_the_factor_of_the_projection() -> None:
    layer, x = MixerGate(4, (2, 3), 8, 8), torch.randn(2, 2, 3, 4)
    with torch.no_grad():
        layer.proj.weight.zero_()
        layer.proj.bias.fill_(1.0)
        gates = layer(x)
    mixed = x + layer.tokens(layer.norm1(x))
    torch.testing.assert_close(gates, mixed + layer.channels(layer.norm2(mixed)))
