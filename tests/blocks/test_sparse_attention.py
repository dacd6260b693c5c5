"""Sparse attention: which keys are kept, and how the predictor learns."""

from __future__ import annotations

import math

import pytest
import timm
import torch

from attnzoo.blocks import MaskPredictor, SparseAttention


@pytest.mark.parametrize("size", [(4, 5), (3, 7)], ids=["learned", "interpolated"])
def test_the_largest_predictions_are_kept(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    height, width = size
    tokens = 1 + height * width
    # all coefficients are kept and no entry is too small: the selection is that of the whole prediction
    layer = MaskPredictor(2, 8, (4, 5), keep_rate=0.3, reduction=3, threshold=0.0)
    with torch.no_grad():
        layer.up.uniform_(0.1, 1.0)
    q, k = torch.randn(2, 3, 2, tokens, 8)
    mask = layer(q, k, height, width)
    assert mask.dtype == torch.bool
    assert mask[:, :, 0].all()
    assert (mask[:, :, 1:].sum(3) == math.ceil(0.3 * tokens)).all()
    predicted = layer.predicted(q, k, height, width)
    worst = predicted.masked_fill(~mask[:, :, 1:], torch.inf).amin(3)
    best_left = predicted.masked_fill(mask[:, :, 1:], -torch.inf).amax(3)
    assert (worst >= best_left).all()


def test_with_all_keys_attention_is_dense() -> None:
    layer, x = SparseAttention(16, 2, (3, 4), keep_rate=1.0).eval(), torch.randn(2, 13, 16)
    torch.testing.assert_close(layer.forward_tokens(x, 3, 4), layer.reconstruction(x, 3, 4)[0])
    with pytest.raises(ValueError, match="keep_rate must be above 0 and at most 1, got 0"):
        SparseAttention(16, 2, (3, 4), keep_rate=0)


def test_attention_is_that_of_the_kept_keys() -> None:
    torch.manual_seed(0)
    layer, x = SparseAttention(16, 2, (3, 4)).eval(), torch.randn(2, 13, 16)
    q, k, v = layer.qkv(x).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    scores = (q @ k.transpose(2, 3) / 8**0.5).masked_fill(~layer.predictor(q, k, 3, 4), -torch.inf)
    expected = layer.proj((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(layer.forward_tokens(x, 3, 4), expected)


def test_only_the_reconstruction_trains_predictors() -> None:
    model, images = timm.create_model("sparsifiner_pico", num_classes=3).train(), torch.randn(1, 3, 64, 96)
    model(images).sum().backward()
    weight = model.stages[0].blocks[0].attn.predictor.up
    assert weight.grad is None
    model.train_predictors()
    logits, loss = model.with_reconstruction(images)
    loss.backward()
    assert logits.shape == (1, 3)
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0
