"""Layers of robust vision transformers: token pooling, masks and the diversification loss."""

from __future__ import annotations

import timm
import torch
import torch.nn.functional as F

from attnzoo.blocks import MaskedAttention, TokenPooling, diversification_loss
from attnzoo.blocks.robust import AttentionMask


def test_token_pooling_is_the_weighted_mean_of_dilated_neighborhoods() -> None:
    torch.manual_seed(0)
    layer, x = TokenPooling(6, 3).eval(), torch.randn(2, 5, 7, 6)
    channels_first = x.permute(0, 3, 1, 2)
    kernel = torch.full((6, 1, 3, 3), 1 / 9)
    scales = [channels_first] + [F.conv2d(channels_first, kernel, padding=d, dilation=d, groups=6) for d in (1, 2)]
    weights = layer.conv2(layer.conv1.norm(layer.conv1.conv(channels_first))).softmax(1)
    expected = sum(scale * weights[:, i : i + 1] for i, scale in enumerate(scales))
    torch.testing.assert_close(layer(x), expected.permute(0, 2, 3, 1))


def test_masks_are_interpolated_and_cached_until_they_change() -> None:
    layer = AttentionMask(2, (2, 3)).eval()
    with torch.no_grad():
        layer.table.fill_(0.3)
        torch.testing.assert_close(layer(4, 5), torch.full((2, 20, 20), 0.3).sigmoid())
        before = layer(2, 3)
        assert layer(2, 3) is before
        layer.table[0, 1, 2] = 9.0
        assert layer(2, 3)[0, 1, 2] > 0.99


def test_weights_of_masked_attention_give_its_output() -> None:
    layer, x = MaskedAttention(8, 2, (3, 4)).eval(), torch.randn(2, 3, 4, 8)
    out, weights = layer.with_weights(x)
    torch.testing.assert_close(out, layer(x))
    torch.testing.assert_close(weights.sum(3), torch.ones(2, 2, 12))


def test_the_diversification_loss_is_one_where_all_queries_attend_alike() -> None:
    alike = torch.zeros(1, 2, 8, 8)
    alike[..., 3] = 1
    torch.testing.assert_close(diversification_loss(alike), torch.tensor(1.0))
    # the mean, 1/8 everywhere, does not exceed the threshold
    assert diversification_loss(torch.eye(8).expand(1, 2, 8, 8)) == 0


def test_logits_come_with_the_loss_of_all_blocks() -> None:
    model, images = timm.create_model("tap_rvt_pico", num_classes=3).eval(), torch.randn(2, 3, 96, 64)
    logits, loss = model.with_diversification(images)
    torch.testing.assert_close(logits, model(images))
    assert 0 <= loss <= 1
