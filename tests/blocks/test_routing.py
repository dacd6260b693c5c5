"""Bi-level routing and dense attention: explicit implementations, and sizes that regions do not divide."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attnzoo.blocks import BiLevelRoutingAttention, LepeAttention, channels_last_conv


def written_out(block: BiLevelRoutingAttention, x: Tensor) -> Tensor:
    """Computes routing and attention with loops over regions, for a map that the regions divide."""
    batch, height, width, dim = x.shape
    q, k, v = block.qkv(x).chunk(3, -1)
    rows, columns = block.regions
    places = [
        (slice(i * height // rows, (i + 1) * height // rows), slice(j * width // columns, (j + 1) * width // columns))
        for i in range(rows)
        for j in range(columns)
    ]
    images = []
    for b in range(batch):
        means = [torch.stack([part[b][place].mean((0, 1)) for place in places]) for part in (q, k)]
        routes = (means[0] @ means[1].T).topk(block.topk, -1).indices
        out = torch.zeros(height, width, dim, dtype=x.dtype)
        for place, route in zip(places, routes.tolist(), strict=True):
            keys, values = (torch.cat([part[b][places[i]].flatten(0, 1) for i in route]) for part in (k, v))
            # (R, C) -> (h, R, D)
            queries, keys, values = (
                part.unflatten(-1, (block.num_heads, -1)).transpose(0, 1)
                for part in (q[b][place].flatten(0, 1), keys, values)
            )
            weights = (queries @ keys.mT * dim**-0.5).softmax(-1)
            out[place] = (weights @ values).transpose(0, 1).flatten(1).view(out[place].shape)
        images.append(out)
    lepe = F.conv2d(v.permute(0, 3, 1, 2), block.lepe.weight, block.lepe.bias, padding=2, groups=dim)
    return block.proj(torch.stack(images) + lepe.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("size", "regions", "topk"),
    [((6, 9), 3, 4), ((8, 6), (4, 2), 1), ((10, 14), (2, 7), 14), ((7, 7), 7, 16)],
    ids=["3x3 top 4", "4x2 top 1", "2x7 all", "regions of a pixel"],
)
def test_is_attention_to_the_regions_written_out(
    size: tuple[int, int], regions: int | tuple[int, int], topk: int
) -> None:
    block = BiLevelRoutingAttention(12, 3, regions, topk).double()
    inputs = torch.randn(2, *size, 12, dtype=torch.double)
    answers = []
    for function in (block, lambda x: written_out(block, x)):
        x = inputs.clone().requires_grad_()
        block.zero_grad()
        out = function(x)
        out.square().sum().backward()
        answers.append([out, x.grad, *(p.grad for p in block.parameters())])
    for ours, expected in zip(*answers, strict=True):
        torch.testing.assert_close(ours, expected, atol=1e-10, rtol=1e-10)


def test_no_gradient_goes_through_the_choice() -> None:
    block = BiLevelRoutingAttention(8, 2, 2, 1)
    qkv = torch.randn(1, 4, 4, 24, requires_grad=True)
    assert not block._route(qkv.detach(), 2, 2).requires_grad


def test_padding_before_the_projection_is_attended_to_and_cropped() -> None:
    block = BiLevelRoutingAttention(8, 2, 3, 4, auto_pad=True).eval()
    x = torch.randn(2, 7, 8, 8)
    padded = F.pad(x, (0, 0, 0, 1, 0, 2))
    with torch.no_grad():
        torch.testing.assert_close(block(x), block(padded)[:, :7, :8])


@pytest.mark.parametrize("size", [(7, 8), (6, 9), (2, 5), (1, 1)], ids=str)
@pytest.mark.parametrize("pad_projected", [False, True], ids=["pad input", "pad projected"])
def test_auto_pad_takes_any_map(size: tuple[int, int], pad_projected: bool) -> None:
    block = BiLevelRoutingAttention(8, 2, 3, 4, auto_pad=True, pad_projected=pad_projected)
    x = torch.randn(2, *size, 8, requires_grad=True)
    out = block(x)
    assert out.shape == x.shape
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_padding_after_the_projection_counts_for_no_mean_and_adds_regions() -> None:
    block = BiLevelRoutingAttention(4, 1, 3, 1, auto_pad=True, pad_projected=True)
    # regions of 8 // 3 = 2 rows, so four of them; 7 // 3 = 2 columns, so four of them, the last with one column
    assert (block._cut(8, 0), block._cut(7, 1)) == ((4, 2), (4, 2))
    qkv = torch.zeros(1, 8, 7, 12)
    # queries of the rightmost region match the keys of the first one, unless zeros are included in their mean
    qkv[0, :, 6, 0] = 1
    qkv[0, :2, :2, 4] = 1
    qkv[0, :2, 2:4, 4] = 0.9
    routes = block._route(qkv, 2, 2)
    assert routes.shape == (1, 16, 1)
    assert routes[0, 3::4].flatten().tolist() == [0] * 4


def test_padding_after_the_projection_written_out() -> None:
    block = BiLevelRoutingAttention(8, 2, 3, 2, auto_pad=True, pad_projected=True).double()
    x = torch.randn(1, 7, 9, 8, dtype=torch.double)
    q, k, v = (F.pad(part, (0, 0, 0, 0, 0, 1)) for part in block.qkv(x).chunk(3, -1))
    # regions of 2 x 3: four rows of regions, the last with one row of the map, and three columns
    means = []
    for part in (q, k):
        sums = part.unflatten(2, (3, 3)).unflatten(1, (4, 2)).sum((2, 4)).flatten(1, 2)
        means.append(sums / torch.tensor([6.0] * 9 + [3.0] * 3)[:, None])
    routes = (means[0] @ means[1].mT).topk(2, -1).indices
    region = torch.arange(8)[:, None] // 2 * 3 + torch.arange(9) // 3
    allowed = (region.flatten()[:, None, None] * 0 + region.flatten()[:, None]) == routes[0][region.flatten()][:, None]
    q, k, v = (part.flatten(1, 2).unflatten(-1, (2, 4)).transpose(1, 2) for part in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed.any(-1), scale=8**-0.5)
    lepe = channels_last_conv(block.lepe, block.qkv(x).chunk(3, -1)[2])
    expected = block.proj(out.transpose(1, 2).flatten(2).unflatten(1, (8, 9))[:, :7] + lepe)
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=1e-12)


def test_a_map_that_regions_do_not_divide_is_refused_without_auto_pad() -> None:
    block = BiLevelRoutingAttention(8, 2, (3, 4), 2)
    with pytest.raises(ValueError, match=r"regions must divide the map, got 8 rows and 3 regions.*auto_pad=True"):
        block(torch.randn(1, 8, 8, 8))
    with pytest.raises(ValueError, match=r"regions must divide the map, got 9 columns and 4 regions.*auto_pad=True"):
        block(torch.randn(1, 6, 9, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_heads": 3}, "dim must be a multiple of num_heads, got 8 channels for 3 heads"),
        ({"regions": 2, "topk": 5}, r"topk must be 1 \.\. 4, the number of regions, got 5 for 2 x 2 regions"),
        ({"topk": 0}, r"topk must be 1 \.\. 49, the number of regions, got 0"),
        ({"regions": (0, 3)}, r"regions must be at least 1 per side, got \(0, 3\)"),
    ],
    ids=["heads", "topk", "no topk", "no regions"],
)
def test_mistakes(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BiLevelRoutingAttention(8, **{"num_heads": 2, **arguments})


@pytest.mark.parametrize("of_values", [False, True], ids=["of input", "of values"])
def test_dense_attention_written_out(of_values: bool) -> None:
    block = LepeAttention(12, 3, lepe_of_values=of_values).double()
    x = torch.randn(2, 5, 6, 12, dtype=torch.double)
    q, k, v = block.qkv(x).flatten(1, 2).chunk(3, -1)
    heads = [part.unflatten(-1, (3, 4)).transpose(1, 2) for part in (q, k, v)]
    out = (heads[0] @ heads[1].mT * 4**-0.5).softmax(-1) @ heads[2]
    source = v.unflatten(1, (5, 6)) if of_values else x
    lepe = F.conv2d(source.permute(0, 3, 1, 2), block.lepe.weight, block.lepe.bias, padding=2, groups=12)
    expected = block.proj(out.transpose(1, 2).reshape(x.shape) + lepe.permute(0, 2, 3, 1))
    torch.testing.assert_close(block(x), expected, atol=1e-12, rtol=1e-12)
    assert block.qkv.bias is None


def test_dense_attention_heads_must_divide_the_channels() -> None:
    with pytest.raises(ValueError, match="dim must be a multiple of num_heads, got 12 channels for 8 heads"):
        LepeAttention(12)
