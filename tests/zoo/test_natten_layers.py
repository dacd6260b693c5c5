"""The layers of attnzoo.natten: each release's constructor and defaults, with the parameters of our own layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import attnzoo
from attnzoo.blocks import NeighborhoodAttention
from attnzoo.natten.release import contents
from tests.tiers import quick

natten = attnzoo.natten


def as_block(layer: nn.Module, **more: Any) -> NeighborhoodAttention:
    """The layer of this package with the same parameters."""
    block = NeighborhoodAttention(32, 4, 3, bias=layer.rpb is not None, **more)
    block.load_state_dict(layer.state_dict())
    return block


@pytest.mark.parametrize("version", ["0.14.4", "0.14.6", "0.15.1"])
@pytest.mark.parametrize("size", [(9, 10), (4, 10)], ids=["large", "padded"])
def test_old_layers_have_biases_and_pad(version: str, size: tuple[int, int]) -> None:
    """OneFormer, StyleNAT and the authors' own networks name all arguments but the channels."""
    layer = contents(version)["natten"]["NeighborhoodAttention2D"](
        32, kernel_size=3, dilation=2, num_heads=4, qkv_bias=True, qk_scale=None, attn_drop=0.1, proj_drop=0.0
    ).eval()
    assert layer.window_size == 6
    x = torch.randn(2, *size, 32)
    torch.testing.assert_close(layer(x), as_block(layer, dilation=2)(x))


@pytest.mark.parametrize("version", ["0.14.4", "0.15.1", "0.17.5", "0.20.1"])
def test_layers_of_sequences_are_layers_of_one_row(version: str) -> None:
    arguments = {"num_heads": 4, "kernel_size": 3, "dilation": 2}
    arguments |= {"rel_pos_bias": True} if version == "0.17.5" else {}
    layer = contents(version)["natten"]["NeighborhoodAttention1D"](32, **arguments).eval()
    block = NeighborhoodAttention(32, 4, (1, 3), (1, 2), bias=layer.rpb is not None)
    block.load_state_dict({name: x[:, None] if name == "rpb" else x for name, x in layer.state_dict().items()})
    for length in (13, 4) if layer.pads else (13,):
        x = torch.randn(2, length, 32)
        torch.testing.assert_close(layer(x), block(x[:, None])[:, 0])


def test_order_of_the_constructors_arguments() -> None:
    first, classic, last, recent = (
        contents(version)["natten"]["NeighborhoodAttention2D"] for version in ("0.14.2", "0.15.0", "0.17.5", "0.21.0")
    )
    assert (first(32, 7, 4).kernel_size, first(32, 7, 4).num_heads) == (7, 4)
    assert (classic(32, 4, 7, 2, False).rpb, classic(32, 4, 7, 2).dilation) == (None, 2)
    assert (last(32, 4, 7, 2, True).is_causal, last(32, 4, (7, 5)).rpb) == ((True, True), None)
    assert last(32, 4, (7, 5), rel_pos_bias=True).rpb.shape == (4, 13, 9)
    assert (recent(32, 4, 7, 2).stride, recent(32, 4, 7, 2).dilation) == ((2, 2), (1, 1))
    assert recent(embed_dim=32, num_heads=4, kernel_size=7).embed_dim == 32
    assert contents("0.20.0")["natten"]["NeighborhoodAttention1D"](dim=32, num_heads=4, kernel_size=7).axes == 1


def test_a_dilation_named_by_text_follows_the_map() -> None:
    layer = contents("0.14.4")["natten"]["NeighborhoodAttention2D"](32, 3, 4, dilation="auto").eval()
    x = torch.randn(1, 9, 12, 32)
    torch.testing.assert_close(layer(x), as_block(layer, dilation=3)(x))


def test_causal_layer_with_a_stride() -> None:
    layer = natten.NeighborhoodAttention2D(32, 4, 3, is_causal=(True, False), stride=2)
    x = torch.randn(1, 6, 7, 32)
    torch.testing.assert_close(layer(x), as_block(layer, is_causal=(True, False), stride=2)(x))


def test_dropout_of_weights() -> None:
    layer = natten.NeighborhoodAttention2D(8, 2, 3, rel_pos_bias=True, attn_drop=0.5, use_experimental_ops=True)
    x = torch.randn(1, 5, 5, 8)
    assert not torch.equal(layer(x), layer(x))
    layer.attn_drop.p = 1e-12
    torch.testing.assert_close(layer(x), layer.eval()(x))


def test_a_table_without_a_place_is_explained() -> None:
    state = natten.NeighborhoodAttention2D(8, 2, 3, rel_pos_bias=True).state_dict()
    layer = nn.Sequential(natten.NeighborhoodAttention2D(8, 2, 3))
    state = {f"0.{name}": x for name, x in state.items()}
    with pytest.warns(
        UserWarning, match=r"0\.rpb is a table of biases.*install\('0.14.6'\), or pass rel_pos_bias=True"
    ):
        layer.load_state_dict(state, strict=False)


def test_autocast() -> None:
    layer = natten.NeighborhoodAttention2D(32, 4, 3, rel_pos_bias=True, attn_drop=0.1)
    x = torch.randn(1, 6, 7, 32)
    with torch.autocast("cpu", torch.bfloat16):
        for module in (layer.train(), layer.eval()):
            out = module(x)
            assert out.dtype == torch.bfloat16
            out.float().sum().backward()
    torch.testing.assert_close(out.float(), layer(x), rtol=0, atol=0.02)


@pytest.mark.parametrize("axes", quick([1, 2], [1]))
def test_exported(axes: int) -> None:
    layer = contents("0.14.6")["natten"][f"NeighborhoodAttention{axes}D"](8, 2, 3).eval()
    x = torch.randn(1, *[7] * axes, 8)
    torch.testing.assert_close(torch.export.export(layer, (x,)).module()(x), layer(x))
