"""The ONNX forms of operators with dynamic sizes, compared with the operators themselves at many sizes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from attnzoo.blocks import (
    AggregatedAttention,
    BiLevelRoutingAttention,
    ContMix,
    CrossShapedAttention,
    DeformableMerging,
    HaloAttention,
    HiLoAttention,
    RankAugmentedAttention,
    SubsampledAttention,
    WindowAttention,
)
from attnzoo.kernels import neighborhood_attention, neighborhood_av, neighborhood_bias
from attnzoo.tools.export import graphs, open_session, relative_difference
from tests.tiers import fifth

pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

CHANNELS, HEADS = 8, 2
# one tile and many, tiles of unequal sides, the last tile shifted inward by little and by much
SIZES = [(24, 30), (7, 7), (8, 50), (13, 14), (31, 19)]


class OnMaps(nn.Module):
    """A mixer of channel-last maps as a network of images."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H, W, C)."""
        return self.mixer(images.permute(0, 2, 3, 1))


class ChannelsFirst(nn.Module):
    """A mixer of channel-first maps as one of channel-last maps."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', C)."""
        return self.mixer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class Neighborhood(nn.Module):
    """Queries, keys and values directly from the map, with a bias, and a key and a value for positions past the map."""

    def __init__(
        self, kernel: tuple[int, int], has_bias: bool = True, is_padded: bool = False, **window: object
    ) -> None:
        super().__init__()
        self.kernel, self.window = kernel, window
        self.table = nn.Parameter(torch.randn(HEADS, *(2 * side - 1 for side in kernel))) if has_bias else None
        token = torch.randn(2, HEADS, CHANNELS // HEADS)
        self.padding = nn.Parameter(token) if is_padded else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        q = x.unflatten(3, (HEADS, -1))
        padding = None if self.padding is None else (self.padding[0], self.padding[1])
        out = neighborhood_attention(
            q, q.flip(-1), q.tanh(), self.kernel, bias=self.table, padding=padding, **self.window
        )
        return out.flatten(3)


class Halves(nn.Module):
    """Weights from a position table only, and the weighted sum of the values."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel, self.table = kernel, nn.Parameter(torch.randn(HEADS, 2 * kernel - 1, 2 * kernel - 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        bias = neighborhood_bias(self.table, (x.shape[1], x.shape[2]))
        weights = (bias + x[..., :1].unsqueeze(-1)).softmax(-1)
        return neighborhood_av(weights, x.unflatten(3, (HEADS, -1)), self.kernel).flatten(3)


def mixers() -> dict[str, tuple[nn.Module, Sequence[tuple[int, int]]]]:
    """By name: a mixer, and map sizes in addition to the common ones."""
    torch.manual_seed(0)
    contmix = ContMix(CHANNELS // 2, CHANNELS // 2, HEADS, kernel_size=7, small_kernel_size=5)
    routed = {"regions": 4, "topk": 3, "auto_pad": True}
    return {
        "7x7": (Neighborhood((7, 7)), ()),
        "3x5": (Neighborhood((3, 5), has_bias=False), ((3, 5), (4, 6))),
        "even": (Neighborhood((4, 6)), ()),
        "large": (Neighborhood((14, 15), is_padded=True), ((14, 15), (28, 44))),
        "dilated": (Neighborhood((3, 2), dilation=(2, 3)), ()),
        "strided": (Neighborhood((5, 5), stride=(2, 3)), ()),
        "causal": (Neighborhood((5, 3), is_causal=(True, False)), ()),
        "causal-strided": (Neighborhood((4, 4), is_causal=True, stride=2), ()),
        "padded": (Neighborhood((5, 7), is_padded=True), ((1, 1), (3, 9), (20, 4))),
        "padded-dilated": (Neighborhood((3, 3), is_padded=True, dilation=4), ((2, 5),)),
        "halves": (Halves(5), ((5, 5),)),
        "contmix": (contmix, ((2, 2), (5, 9), (12, 4))),
        "windows": (WindowAttention(CHANNELS, HEADS, 5), ((3, 4),)),
        "shifted-windows": (WindowAttention(CHANNELS, HEADS, 5, shifted=True), ((3, 4), (5, 5), (5, 6))),
        "stripes": (CrossShapedAttention(CHANNELS, HEADS, 3), ((2, 2),)),
        "whole-stripe": (CrossShapedAttention(CHANNELS, HEADS, None), ()),
        "halo": (ChannelsFirst(HaloAttention(CHANNELS, HEADS, 4, 3)), ((1, 1), (3, 9))),
        "strided-halo": (ChannelsFirst(HaloAttention(CHANNELS, HEADS, 4, 1, stride=2)), ((1, 2), (5, 3))),
        "hilo": (HiLoAttention(CHANNELS, HEADS, window_size=2, alpha=0.5), ((1, 1), (3, 5))),
        "deformable": (DeformableMerging(CHANNELS, 6), ((1, 2), (3, 3))),
        "subsampled": (SubsampledAttention(CHANNELS, HEADS, ratio=4), ((2, 3), (4, 9))),
        "aggregated": (AggregatedAttention(CHANNELS, HEADS, 1, 1, pool_ratio=4), ((2, 3), (4, 9))),
        "rank-augmented": (RankAugmentedAttention(CHANNELS, HEADS), ((1, 1), (2, 5))),
        "routed": (BiLevelRoutingAttention(CHANNELS, HEADS, **routed), ((4, 4), (3, 5))),
        "routed-projected": (BiLevelRoutingAttention(CHANNELS, HEADS, pad_projected=True, **routed), ((4, 5),)),
    }


# torch takes a minute to trace regions whose number depends on the size
@pytest.mark.parametrize(
    "name",
    [
        *fifth([name for name in mixers() if name != "routed-projected"]),
        pytest.param("routed-projected", marks=pytest.mark.slow),
    ],
)
def test_any_size_in_one_graph(name: str) -> None:
    mixer, sizes = mixers()[name]
    network = OnMaps(mixer).eval()
    for parameter in network.parameters():
        # no parameter stays at zero and hides what it is multiplied with
        nn.init.normal_(parameter, std=0.5)
    proto = graphs.trace(network, torch.zeros(2, CHANNELS, 61, 77), ("maps",), ("batch", "height", "width"), 20)
    session = open_session(graphs.serialise(proto, {}), threads=1)
    for size in (*SIZES, *sizes):
        images = torch.randn(3, CHANNELS, *size)
        with torch.no_grad():
            expected = network(images)
        given = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        assert relative_difference(given, expected) <= 1e-5, size


def test_one_side_may_be_free_alone() -> None:
    network = OnMaps(Neighborhood((3, 3))).eval()
    proto = graphs.trace(network, torch.zeros(2, CHANNELS, 12, 77), ("maps",), ("width",), 20)
    shape = [size.dim_param or size.dim_value for size in proto.graph.input[0].type.tensor_type.shape.dim]
    assert shape == [2, CHANNELS, 12, "width"]
    session = open_session(graphs.serialise(proto, {}), threads=1)
    images = torch.randn(2, CHANNELS, 12, 9)
    with torch.no_grad():
        expected = network(images)
    given = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    assert relative_difference(given, expected) <= 1e-5
