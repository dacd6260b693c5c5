"""Clipped softmax and gates: their limits, and timm's vision transformers with them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

import attnzoo
from attnzoo.base import PlainAttention
from attnzoo.blocks import AttentionGate, QuantizableAttention, clipped_softmax


def test_a_clipped_softmax_reaches_zero_and_one() -> None:
    scores = torch.tensor([[0.0, 0.0, -3.0, 4.0]])
    weights = clipped_softmax(scores, -0.03, 1.03)
    assert weights[0, 2] == 0
    assert weights[0, 3] == pytest.approx(1.06 * scores.softmax(1)[0, 3].item() - 0.03)
    assert clipped_softmax(torch.tensor([0.0, 20.0]), -0.03, 1.03).tolist() == [0, 1]
    torch.testing.assert_close(clipped_softmax(scores, 0.0), scores.softmax(1))


def test_alpha_is_gamma_times_the_tokens() -> None:
    relative = QuantizableAttention(16, 2, softmax="clipped", clip=4.0)
    absolute = QuantizableAttention(16, 2, softmax="clipped", clip=(-0.4, 1.0))
    absolute.load_state_dict(relative.state_dict())
    x = torch.randn(2, 10, 16)
    torch.testing.assert_close(relative(x), absolute(x))


@pytest.mark.parametrize("kind", ["linear", "mlp", "joint", "constant"])
@pytest.mark.parametrize("is_pooled", [False, True], ids=["each", "pooled"])
def test_gates(kind: str, is_pooled: bool) -> None:
    gate, x = AttentionGate(16, 2, kind, is_pooled=is_pooled), torch.randn(3, 5, 16)
    found = gate(x)
    assert found.shape == (3, 1 if is_pooled else 5, 2, 1)
    weights, biases = list(gate.weights), list(gate.biases)
    for head in range(2):
        values = x if kind == "joint" else x[..., 8 * head : 8 * head + 8]
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            values = values.relu() if i else values
            if kind == "constant":
                assert bias.count_nonzero() == 0
                values = torch.zeros(3, 5, 1)
            else:
                values = nn.functional.linear(values, weight[head], bias[head, :, 0])
        logits = values.mean(1, keepdim=True) if is_pooled else values
        torch.testing.assert_close(found[:, :, head], logits.sigmoid())
    start = AttentionGate(16, 2, kind, 0.2, of_trained=True)(x)
    torch.testing.assert_close(start, torch.ones_like(start), atol=0.15, rtol=0)


@pytest.mark.parametrize("options", [{"softmax": "clipped", "clip": 0.0}, {"gate": "joint"}], ids=["clipped", "gated"])
def test_timms_transformers(options: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"embed_dim": 48, "depth": 2, "num_heads": 3, "img_size": 32, "num_classes": 4}
    model, x = timm.create_model("vit_tiny_patch16_224", **arguments).eval(), torch.randn(2, 3, 32, 32)
    names, before = set(model.state_dict()), model(x)
    assert attnzoo.make_quantizable(model, **options) is model
    assert names <= set(model.state_dict())
    for name, parameter in model.named_parameters():
        # which make a small difference from one
        if ".gate.weights." in name:
            nn.init.zeros_(parameter)
    torch.testing.assert_close(model(x), before)
    model.train()(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_layer_alone_is_returned_anew() -> None:
    layer, x = timm.layers.Attention(48, 3, qkv_bias=True).eval(), torch.randn(2, 5, 48)
    new = attnzoo.make_quantizable(layer, "clipped", clip=0.0)
    assert isinstance(new, QuantizableAttention)
    assert new.qkv is layer.qkv
    assert not new.training
    torch.testing.assert_close(new(x), layer(x))
    with pytest.raises(ValueError, match=r"^the layer has the option qk_norm"):
        attnzoo.make_quantizable(timm.layers.Attention(48, 3, qk_norm=True, norm_layer=nn.LayerNorm))
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module, got str"):
        attnzoo.make_quantizable("vit_tiny_patch16_224")


def test_a_family_of_ours() -> None:
    arguments: dict[str, Any] = {"agent_depths": (0, 0, 0, 0), "img_size": 64, "num_classes": 3}
    plain = timm.create_model("agent_deit_pico", **arguments)
    model = timm.create_model("agent_deit_pico", **arguments, softmax="clipped", clip=2.0, gate="mlp").eval()
    assert any(isinstance(module, PlainAttention) for module in plain.modules())
    assert plain.state_dict().keys() < model.state_dict().keys()
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 3)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="softmax must be full or clipped, got 'sparse'"):
        QuantizableAttention(16, 2, softmax="sparse")
    with pytest.raises(ValueError, match=r"clip must be \(gamma <= 0, zeta >= 1\), or alpha >= 0, got \(0.1, 1.0\)"):
        QuantizableAttention(16, 2, softmax="clipped", clip=(0.1, 1.0))
    with pytest.raises(ValueError, match="gate must be one of linear, mlp, joint, constant, got 'conv'"):
        QuantizableAttention(16, 2, gate="conv")
    with pytest.raises(ValueError, match="probability of a gate must be between 0 and 1, got 1"):
        QuantizableAttention(16, 2, gate="linear", gate_probability=1.0)
    with pytest.raises(ValueError, match="takes no mask"):
        QuantizableAttention(16, 2)(torch.randn(1, 3, 16), torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"^ResNet has no layers of timm.layers.Attention, .* choose such a model"):
        attnzoo.make_quantizable(timm.create_model("resnet18"))
    with pytest.raises(ValueError, match=r"blocks.0.attn has the option qk_norm"):
        attnzoo.make_quantizable(timm.create_model("vit_tiny_patch16_224", depth=1, qk_norm=True))
