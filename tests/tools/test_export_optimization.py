"""The ONNX translations of this package compute the same in every shape, in fewer nodes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.blocks import BiLevelRoutingAttention
from attnzoo.tools.export import graphs, open_session, relative_difference

onnx = pytest.importorskip("onnx", reason="needs attnzoo[export]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")


class Attention(nn.Module):
    """Queries, keys and values are slices of the images; options are passed to scaled_dot_product_attention."""

    def __init__(self, mask: Tensor | None = None, **options: Any) -> None:
        super().__init__()
        self.register_buffer("mask", mask)
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = x[:, :4], x[:, 4:8, :7], x[:, 8:, :7]
        return F.scaled_dot_product_attention(q, k, v, self.mask, **self.options)


class Lines(nn.Module):
    """A linear layer over the last axis of the images, which are flattened to a number of dimensions."""

    def __init__(self, dimensions: int, bias: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.dimensions, self.linear = dimensions, nn.Linear(12, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.flatten(0, 4 - self.dimensions)) if self.dimensions < 4 else self.linear(x)


def trace(network: nn.Module, images: Tensor, dynamic: tuple[str, ...] = ("batch",), opset: int = 20) -> Any:
    return graphs.trace(network.eval(), images, ("answer",), dynamic, opset)


def check(proto: Any, network: nn.Module, images: Tensor) -> None:
    given = open_session(proto.SerializeToString()).run(None, {"images": images.numpy()})[0]
    assert relative_difference(torch.from_numpy(given), network(images)) <= 1e-5


class Normalised(nn.Module):
    """Images divided by a norm, and one whose axes are removed."""

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) + torch.linalg.vector_norm(x, dim=(1, 3))[:, None, :, None]


MASK = torch.randn(4, 9, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("opset", [18, 20])
@pytest.mark.parametrize(
    ("network", "is_ours"),
    [
        pytest.param(Attention(), True, id="plain"),
        pytest.param(Attention(scale=0.3), True, id="scale"),
        pytest.param(Attention(MASK), True, id="added-mask"),
        pytest.param(Attention(MASK > -0.5), False, id="mask-of-truths"),
        pytest.param(Attention(is_causal=True), False, id="causal"),
    ],
)
def test_attention_is_right_and_scales_once(network, is_ours, opset):
    proto = trace(network, torch.randn(2, 12, 9, 6), opset=opset)
    for batch in (1, 3):
        check(proto, network, torch.randn(batch, 12, 9, 6))
    if is_ours:
        count = Counter(node.op_type for node in proto.graph.node)
        assert (count["Mul"], count["Transpose"], count["Softmax"], count["CastLike"]) == (1, 1, 1, 0)
        (turned,) = [node for node in proto.graph.node if node.op_type == "Transpose"]
        assert list(turned.attribute[0].ints) == [0, 1, 3, 2]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dimensions", [2, 3, 4])
@pytest.mark.parametrize("dynamic", [("batch",), ("batch", "height")], ids="-".join)
def test_linear_layer_is_one_product(dynamic, dimensions, bias):
    network = Lines(dimensions, bias)
    proto = trace(network, torch.randn(2, 3, 10, 12), dynamic)
    for height in (10, 14) if "height" in dynamic else (10,):
        check(proto, network, torch.randn(3, 3, height, 12))
    count = Counter(node.op_type for node in proto.graph.node)
    assert count["Gemm"] + count["MatMul"] == 1
    assert count["Add"] == 0


def test_shapes_of_norms_are_inferred():
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    network = Normalised()
    proto = trace(network, torch.randn(2, 3, 10, 12))
    check(proto, network, torch.randn(3, 3, 10, 12))
    inferred = SymbolicShapeInference.infer_shapes(proto).graph
    known = {
        entry.name for entry in (*inferred.value_info, *inferred.output) if entry.type.tensor_type.HasField("shape")
    }
    assert known >= {name for node in proto.graph.node for name in node.output}


def test_norms_and_activations_are_single_nodes_and_nothing_is_left_over():
    network = nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12), nn.Softmax(-1))
    proto = trace(network, torch.randn(2, 3, 10, 12))
    count = Counter(node.op_type for node in proto.graph.node)
    assert count == {"LayerNormalization": 1, "Gemm": 2, "Gelu": 1, "Softmax": 1, "Reshape": count["Reshape"]}
    assert count["Reshape"] <= 4


@pytest.mark.parametrize("size", [pytest.param((8, 12), id="whole"), pytest.param((9, 11), id="padded")])
def test_regions_are_summed_not_pooled(size):
    class Routed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = BiLevelRoutingAttention(12, 2, regions=4, topk=2, auto_pad=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.block(x.permute(0, 2, 3, 1))

    torch.manual_seed(0)
    network = Routed().eval()
    with torch.no_grad():
        proto = trace(network, torch.randn(2, 12, *size))
        check(proto, network, torch.randn(3, 12, *size))
    assert "AveragePool" not in {node.op_type for node in proto.graph.node}
