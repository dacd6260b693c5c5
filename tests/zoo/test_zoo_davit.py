"""Tests specific to DaViT: timm's checkpoints, the order of blocks, pooling before the norm."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models.davit import DaVit as TimmDaViT
from torch import nn

from attnzoo.blocks import ChannelAttention, LayerNormHead, WindowAttention
from attnzoo.zoo_davit import DaViT, checkpoint_filter_fn

SHAPE = {"depths": (1, 2, 1), "num_heads": (2, 4, 8), "embed_dims": (32, 64, 128), "num_classes": 5}


@pytest.mark.parametrize("named_blocks", [False, True], ids=["pairs", "named pairs"])
@pytest.mark.parametrize("size", [(112, 112), (72, 106)], ids=str)
def test_answers_are_those_of_timm(named_blocks: bool, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    theirs, ours = TimmDaViT(named_blocks=named_blocks, **SHAPE).eval().double(), DaViT(**SHAPE).eval().double()
    for parameter in theirs.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    ours.load_state_dict(checkpoint_filter_fn(theirs.state_dict(), ours))
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-12, atol=1e-12)


def test_a_pair_is_windows_and_channels() -> None:
    with torch.device("meta"):
        model = timm.create_model("zoo_davit_large")
    mixers = [block.attn for block in model.stages[2].blocks]
    assert [type(mixer) for mixer in mixers] == [WindowAttention, ChannelAttention] * 9
    assert {mixer.window_size for mixer in mixers[::2]} == {12}
    assert timm.get_pretrained_cfg("zoo_davit_large").input_size == (3, 384, 384)


def test_channels_are_the_tokens() -> None:
    mixer = ChannelAttention(6, 2).eval().double()
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    q, k, v = mixer.qkv(x).reshape(20, 3, 2, 3).unbind(1)
    heads = []
    for head in range(2):
        weights = (k[:, head].T @ v[:, head] / 3**0.5).softmax(1)
        heads.append((weights @ q[:, head].T).T)
    torch.testing.assert_close(mixer(x), mixer.proj(torch.cat(heads, 1)).reshape(1, 4, 5, 6))


@pytest.mark.parametrize(("pool_type", "features"), [("avg", 8), ("catavgmax", 16)])
def test_the_norm_follows_the_pooling(pool_type: str, features: int) -> None:
    head, x = LayerNormHead(8, 3, pool_type), torch.randn(2, 4, 5, 8)
    assert head(x, pre_logits=True).shape == (2, features)
    torch.testing.assert_close(head(x, pre_logits=True).mean(1), torch.zeros(2), atol=1e-6, rtol=0)
    head.reset(0, "")
    assert torch.equal(head(x), x)
    head.reset(4, "avg")
    assert isinstance(head.norm, nn.LayerNorm)
    assert head(x).shape == (2, 4)
