"""Output shapes of blocks at every size, and their error messages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attnzoo.blocks import (
    ConvDownsample,
    ConvStem,
    NeighborhoodAttention,
    PatchMerging,
    PatchStem,
    TransformerBlock,
)
from attnzoo.kernels import neighborhood_attention


@pytest.mark.parametrize(
    ("block", "size", "expected"),
    [
        (ConvStem(3, 8), (32, 47), (8, 12)),
        (PatchStem(3, 8, 4), (32, 47), (8, 12)),
        (PatchStem(3, 8, 16), (33, 15), (3, 1)),
    ],
    ids=["conv", "patch4", "patch16"],
)
def test_stems_round_up(block: nn.Module, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert block(torch.randn(2, 3, *size)).shape == (2, *expected, 8)


@pytest.mark.parametrize("block", [ConvDownsample(4, 6), PatchMerging(4, 6)], ids=["conv", "merging"])
@pytest.mark.parametrize("size", [(8, 6), (7, 5), (1, 1)], ids=str)
def test_downsamplers_round_up(block: nn.Module, size: tuple[int, int]) -> None:
    x = torch.randn(2, *size, 4)
    assert block(x).shape == (2, (size[0] + 1) // 2, (size[1] + 1) // 2, 6)


def test_patch_merging_takes_columns_before_rows() -> None:
    block = PatchMerging(1, 4)
    block.norm, block.reduction = nn.Identity(), nn.Identity()
    x = torch.tensor([[0.0, 1.0], [2.0, 3.0]]).view(1, 2, 2, 1)
    # (row, column) phases in the order (0, 0), (1, 0), (0, 1), (1, 1)
    assert block(x).flatten().tolist() == [0, 2, 1, 3]


@pytest.mark.parametrize("size", [(9, 11), (7, 7), (5, 8), (1, 2)], ids=str)
@pytest.mark.parametrize("dilation", [1, (2, 1)], ids=str)
def test_neighborhood_attention_takes_any_map(size: tuple[int, int], dilation: int | tuple[int, int]) -> None:
    block = NeighborhoodAttention(12, 3, 5, dilation).eval()
    x = torch.randn(2, *size, 12, requires_grad=True)
    out = block(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_small_maps_are_padded_before_the_projection() -> None:
    block = NeighborhoodAttention(8, 2, 5).eval()
    x = torch.randn(1, 3, 6, 8)
    padded = F.pad(x, (0, 0, 0, 0, 0, 2))
    with torch.no_grad():
        torch.testing.assert_close(block(x), block(padded)[:, :3])


def test_weights_are_what_the_output_is_made_of() -> None:
    block = NeighborhoodAttention(8, 2, (3, 5), (2, 1)).eval()
    x = torch.randn(1, 7, 9, 8)
    with torch.no_grad():
        weights = block.weights(x)
        assert weights.shape == (1, 7, 9, 2, 15)
        torch.testing.assert_close(weights.sum(-1), torch.ones(1, 7, 9, 2))
        q, k, v = block.qkv(x).unflatten(-1, (3, 2, 4)).unbind(3)
        expected = block.proj(
            neighborhood_attention(q, k, v, (3, 5), dilation=(2, 1), bias=block.rpb, backend="reference").flatten(3)
        )
        torch.testing.assert_close(block(x), expected)


def test_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 10 channels for 4 heads"):
        NeighborhoodAttention(10, 4)


def test_without_a_table() -> None:
    block = NeighborhoodAttention(8, 2, 3, bias=False, qkv_bias=False)
    assert sorted(name for name, _ in block.named_parameters()) == ["proj.bias", "proj.weight", "qkv.weight"]
    assert block(torch.randn(1, 4, 4, 8)).shape == (1, 4, 4, 8)


@pytest.mark.parametrize("layer_scale", [None, 1e-5], ids=["plain", "scaled"])
def test_transformer_block(layer_scale: float | None) -> None:
    block = TransformerBlock(6, nn.Identity(), 2.5, layer_scale, drop_path=0.2).eval()
    x = torch.randn(2, 3, 5, 6)
    out = block(x)
    assert out.shape == x.shape
    assert block.mlp.fc1.out_features == 15
    if layer_scale:
        torch.testing.assert_close(out, x, atol=1e-3, rtol=0)
