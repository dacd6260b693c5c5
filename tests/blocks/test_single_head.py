"""Single-head attention, its block, and the classifier with a batch norm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from attnzoo.blocks import BatchNormHead, SingleHeadAttention, SingleHeadBlock, fuse

from .test_convolution import with_statistics


@pytest.mark.parametrize("size", [(7, 7), (5, 9), (1, 3), (1, 1)], ids=str)
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_attention_is_the_papers(size: tuple[int, int], format: torch.memory_format) -> None:
    layer = with_statistics(SingleHeadAttention(10, 6, 4).double())
    nn.init.normal_(layer.norm.weight)
    x = torch.randn(2, 10, *size, dtype=torch.float64).contiguous(memory_format=format)
    # explicit attention for each image: (N, C)
    expected = []
    qkv, proj = (copy.deepcopy(part).fuse().conv for part in (layer.qkv, layer.proj))
    for picture in x:
        part = picture[:6]
        part = (part - part.mean()) / (part.var(unbiased=False) + 1e-5).sqrt()
        part = part * layer.norm.weight[:, None, None] + layer.norm.bias[:, None, None]
        tokens = part.flatten(1).T @ qkv.weight[:, :, 0, 0].T + qkv.bias
        q, k, v = tokens[:, :4], tokens[:, 4:8], tokens[:, 8:]
        mixed = (q @ k.T / 2).softmax(1) @ v
        both = torch.cat([mixed.T, picture[6:].flatten(1)]).relu()
        expected.append((proj.weight[:, :, 0, 0] @ both + proj.bias[:, None]).view_as(picture))
    torch.testing.assert_close(layer(x), torch.stack(expected))


def test_attention_takes_all_channels_and_gives_gradients() -> None:
    layer = SingleHeadAttention(6, 6, 4).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.float64, requires_grad=True)
    assert not layer(x).any(), "the last norm starts as zero"
    nn.init.normal_(layer.proj.norm.weight)
    assert torch.autograd.gradcheck(layer.eval(), x)


@pytest.mark.parametrize("partial_dim", [0, 11])
def test_attention_refuses_a_part_that_is_none(partial_dim: int) -> None:
    with pytest.raises(ValueError, match=rf"partial_dim must be 1 \.\. dim, got {partial_dim} of 10 channels"):
        SingleHeadAttention(10, partial_dim)


@pytest.mark.parametrize("mixer", [None, SingleHeadAttention(8, 4)], ids=["without", "with"])
def test_block_starts_as_nothing_and_fuses(mixer: nn.Module | None) -> None:
    block = SingleHeadBlock(8, mixer, drop_path=0.5, zero_conv=True).double().eval()
    x = torch.randn(2, 8, 5, 6, dtype=torch.float64)
    assert torch.equal(block(x), x)
    with_statistics(block)
    expected = block(x)
    assert not torch.allclose(expected, x)
    torch.testing.assert_close(fuse(block)(x), expected)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in block.modules())


def test_block_drops_branches_of_samples_in_training() -> None:
    block = SingleHeadBlock(4, nn.Identity(), drop_path=0.5, zero_conv=True).train()
    torch.manual_seed(0)
    x = torch.ones(64, 4, 2, 2)
    # the depthwise convolution and the MLP start as zero; a kept branch of the mixer is scaled by two
    values, counts = block(x).unique(return_counts=True)
    assert values.tolist() == [1, 3]
    assert counts.min() > 64 * 16 * 0.25


def test_head_norms_what_was_pooled() -> None:
    head = with_statistics(BatchNormHead(6, 3).double())
    x = torch.randn(4, 6, 5, 7, dtype=torch.float64)
    scale = head.norm.weight / (head.norm.running_var + 1e-5).sqrt()
    pooled = (x.mean((2, 3)) - head.norm.running_mean) * scale + head.norm.bias
    torch.testing.assert_close(head(x, pre_logits=True), pooled)
    torch.testing.assert_close(head(x), pooled @ head.fc.weight.T + head.fc.bias)


@pytest.mark.parametrize("pool_type", ["avg", "max", ""])
def test_head_fuses(pool_type: str) -> None:
    head = with_statistics(BatchNormHead(6, 3, pool_type).double())
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    expected = head(x)
    assert head.fuse() is head
    assert isinstance(head.norm, nn.Identity)
    torch.testing.assert_close(head(x), expected)


def test_head_without_classes_keeps_its_norm_when_fused() -> None:
    head = with_statistics(BatchNormHead(6, 0).double())
    x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
    expected = head(x)
    torch.testing.assert_close(head.fuse()(x), expected)
    assert expected.shape == (2, 6)


def test_head_without_pooling_and_classes_passes_the_map() -> None:
    head, x = BatchNormHead(6, 3).eval(), torch.randn(2, 6, 5, 7)
    head.reset(0, "")
    assert torch.equal(head(x), x)
    assert not list(head.parameters())
    head.reset(4, "avg")
    assert head(x).shape == (2, 4)
    assert not head.norm.training
    assert torch.equal(BatchNormHead(6, 0, "")(x), x)
