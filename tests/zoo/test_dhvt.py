"""Tests specific to DHVT: stems, head tokens and gates."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attnzoo.blocks import AggregatingMlp, HeadTokenAttention
from attnzoo.dhvt import HeadTokenTransformer


@pytest.mark.parametrize(
    ("name", "patch_size", "num_heads", "widths", "ends_with_gelu"),
    [
        ("dhvt_tiny", 16, 3, [24, 48, 96, 192], False),
        ("dhvt_small", 16, 6, [48, 96, 192, 384], False),
        ("dhvt_tiny_cifar_patch4", 4, 4, [96, 192], False),
        ("dhvt_small_cifar_patch2", 2, 8, [384], True),
    ],
)
def test_constants_of_the_networks(
    name: str, patch_size: int, num_heads: int, widths: list[int], ends_with_gelu: bool
) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    patches = model.stem.patches
    assert [m.out_channels for m in patches.modules() if isinstance(m, nn.Conv2d)] == widths
    assert isinstance(patches.act, nn.GELU) == ends_with_gelu
    assert model.feature_info[0]["reduction"] == patch_size
    attentions = [m for m in model.modules() if isinstance(m, HeadTokenAttention)]
    assert [m.num_heads for m in attentions] == [num_heads] * 12
    assert model.num_classes == (100 if "cifar" in name else 1000)


def test_head_tokens_reach_the_class_token_only_through_their_mean() -> None:
    layer = HeadTokenAttention(12, 3).eval()
    x = torch.randn(2, 1 + 4 * 5, 12)
    with torch.no_grad():
        out = layer.forward_tokens(x, 4, 5)
        layer.proj.bias += 1
        moved = layer.forward_tokens(x, 4, 5) - out
    assert out.shape == x.shape
    torch.testing.assert_close(moved[:, 0], torch.full((2, 12), 2.0))
    torch.testing.assert_close(moved[:, 1:], torch.ones(2, 20, 12))


def test_the_class_token_of_the_mlp_is_scaled_by_the_map() -> None:
    layer = AggregatingMlp(8, 16).eval()
    x = torch.randn(2, 1 + 3 * 7, 8)
    with torch.no_grad():
        out = layer.forward_tokens(x, 3, 7)
        x[:, 0] *= 2
        again = layer.forward_tokens(x, 3, 7)
    torch.testing.assert_close(again[:, 0], 2 * out[:, 0])
    assert torch.equal(again[:, 1:], out[:, 1:])


def test_patches_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_size must be one of 2, 4, 16, got 8"):
        HeadTokenTransformer(patch_size=8)
