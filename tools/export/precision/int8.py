"""Int8 quantisation: int8 weights and uint8 maps between layers, in QuantizeLinear and DequantizeLinear nodes.

Only layers with weights are quantised: they take up the size and most of the work. Attention scores, softmax, norms and
the operators between them stay in float32: there is no size to save, and their ranges differ from image to image.

Weights have a range of -64 to 64: x86 processors without VNNI add two products of a map and a weight in 16 bits, which
larger weights overflow. A file is then the same on all processors.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from .. import graphs
from ..sessions import open_session
from .fidelity import Answers, Fidelity, answers_of, compare

_LAYERS = ("Conv", "Gemm", "MatMul")
# An activation that clips its input at zero costs nothing after a quantised layer.
_ACTIVATIONS = ("Relu",)
# Targets of the search for layers to keep in float: an error of 0.1, and a tenth of the disagreement that is allowed.
_ERROR, _DISAGREEMENT = 0.1, 0.1
# with more modules than this, layers are grouped by block
_MOST_GROUPS = 64
_RANKING_IMAGES = 32
# A kept layer with less than this share of the weights stays in float completely; weights of larger ones are quantised.
_SMALL = 0.01


class Quantiser:
    """Quantises chosen layers of a graph, with ranges that are measured once.

    Args:
        proto: a `ModelProto` in float32; it is not modified.
        batches: calibration images (B, C, H, W).
    """

    def __init__(self, proto: Any, batches: Sequence[Tensor]) -> None:
        self.proto, self.ranges = _measure(proto, batches)
        weights = {tensor.name for tensor in self.proto.graph.initializer}
        nodes = self.proto.graph.node
        # name of a layer's node -> names of the nodes that are quantised together
        self.layers: dict[str, list[str]] = {}
        for node in nodes:
            if node.op_type in _LAYERS and node.input[1] in weights:
                after = [x.name for x in nodes if x.op_type in _ACTIVATIONS and x.input[0] == node.output[0]]
                self.layers[node.name] = [node.name, *after]
        if not self.layers:
            raise graphs.ExportError("the model has no layers with weights to quantise to int8")

    def quantise(self, layers: Sequence[str]) -> Any:
        """The graph with these layers quantised, a `ModelProto`."""
        from onnx import ModelProto
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        proto = ModelProto()
        proto.CopyFrom(self.proto)
        if not layers:
            return proto
        nodes = [name for layer in layers for name in self.layers[layer]]
        # outputs of matrix products stay float32: bias and norm follow without another rounding
        options = {"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]}
        with graphs.quiet():
            quantiser = QDQQuantizer(
                proto, True, True, QuantType.QInt8, QuantType.QUInt8, self.ranges, nodes, [],
                [*_LAYERS, *_ACTIVATIONS], options,
            )  # fmt: skip
            quantiser.quantize_model()
            quantiser.model.topological_sort()
        quantised = quantiser.model.model
        graphs.finish(quantised)
        return quantised

    def store_large(self, proto: Any, layers: Sequence[str]) -> None:
        """Stores the weights of the large ones among some layers of a graph in int8; their maps stay in float32."""
        from onnx import helper, numpy_helper

        weights = {tensor.name: tensor for tensor in proto.graph.initializer}
        nodes = {node.name: node for node in proto.graph.node}
        whole = sum(_count(tensor) for tensor in self.proto.graph.initializer)
        added = []
        for layer in layers:
            tensor = weights.pop(nodes[layer].input[1], None)
            if tensor is None or _count(tensor) < _SMALL * whole:
                continue
            axis = _output_axis(nodes[layer])
            integers, scale = _in_eight_bits(numpy_helper.to_array(tensor), axis)
            names = [f"{tensor.name}/int8", f"{tensor.name}/scale"]
            added.append(helper.make_node("DequantizeLinear", names, [tensor.name], f"{tensor.name}/float", axis=axis))
            proto.graph.initializer.remove(tensor)
            values = zip((integers, scale), names, strict=True)
            proto.graph.initializer.extend(numpy_helper.from_array(value, name) for value, name in values)
        rest = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([*added, *rest])


def to_int8(proto: Any, batches: Sequence[Tensor], least_agreement: float) -> tuple[Any, tuple[str, ...]]:
    """Quantises the layers of a graph to int8, except for those that cause too large an error.

    If the fully quantised graph is too far from float32, each layer (or each block, if there are many layers) is
    quantised alone to rank the layers by their error. As few as possible of the worst, at most half of all, stay in
    float32. Usually the rounding of the maps causes the error: then the large weights of these layers are still stored
    in int8.

    Args:
        proto: a `ModelProto` in float32.
        batches: calibration images (B, C, H, W).
        least_agreement: share of the images whose top class must be the same as in float32.

    Returns:
        The new `ModelProto`, and the names of the layers that stay in float32.

    Raises:
        ExportError: there is nothing to quantise.
    """
    quantiser = Quantiser(proto, batches)
    groups = _groups(list(quantiser.layers))
    expected = answers_of(open_session(proto.SerializeToString()), batches)

    def without(kept: Sequence[str], are_whole: bool = False) -> tuple[Any, Fidelity]:
        quantised = quantiser.quantise([x for name, layers in groups.items() if name not in kept for x in layers])
        if not are_whole:
            quantiser.store_large(quantised, [layer for name in kept for layer in groups[name]])
        given = answers_of(open_session(quantised.SerializeToString()), batches)
        return quantised, compare(given, expected)

    quantised, fidelity = without([])
    if _is_close(fidelity, least_agreement):
        return quantised, ()
    ranked = _rank(quantiser, groups, batches, expected)
    count = max(1, len(ranked) // 2)
    quantised, fidelity = without(ranked[:count])
    # with int8 weights they do not increase the size; if the error is still too large, they are float completely
    are_whole = fidelity.error > _ERROR
    if are_whole:
        quantised, fidelity = without(ranked[:count], are_whole)
    low = 1
    # binary search for the smallest sufficient number
    while _is_close(fidelity, least_agreement) and low < count:
        middle = (low + count) // 2
        fewer, of_fewer = without(ranked[:middle], are_whole)
        if _is_close(of_fewer, least_agreement):
            quantised, count = fewer, middle
        else:
            low = middle + 1
    return quantised, tuple(sorted(ranked[:count]))


def _count(tensor: Any) -> int:
    return math.prod(tensor.dims)


def _output_axis(layer: Any) -> int:
    """The output axis of a layer's weights."""
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in layer.attribute)
    return 0 if layer.op_type == "Conv" or is_transposed else 1


def _in_eight_bits(values: Any, axis: int) -> tuple[Any, Any]:
    """Weights as int8, and the scale of each output."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    # the scale must not be zero, even if all weights of an output are
    scale = np.maximum(np.abs(values).max(others, keepdims=True), 1e-12) / 127
    return np.rint(values / scale).astype(np.int8), scale.ravel().astype(np.float32)


def _is_close(fidelity: Fidelity, least_agreement: float) -> bool:
    disagreement = 0.0 if fidelity.agreement is None else 1 - fidelity.agreement
    return fidelity.error <= _ERROR and disagreement <= _DISAGREEMENT * (1 - least_agreement)


def _groups(layers: Sequence[str]) -> dict[str, list[str]]:
    """Groups of layers to keep in float together, by name: layers of a module, or of a block if there are many."""
    modules = {layer: layer.rpartition("/")[0] or layer for layer in layers}
    if len(set(modules.values())) > _MOST_GROUPS:
        # stages.2.blocks.5.attn.qkv belongs to stages.2.blocks.5
        modules = {layer: re.sub(r"(\.\d+)(?!.*\.\d).*", r"\1", module) for layer, module in modules.items()}
    found: dict[str, list[str]] = {}
    for layer, module in modules.items():
        found.setdefault(module, []).append(layer)
    return found


def _rank(
    quantiser: Quantiser, groups: Mapping[str, Sequence[str]], batches: Sequence[Tensor], expected: Answers
) -> list[str]:
    """Names of the groups, ordered by the error when quantised alone, largest first."""
    count = next((i for i in range(1, len(batches)) if sum(map(len, batches[:i])) >= _RANKING_IMAGES), len(batches))
    errors = {}
    for name, layers in groups.items():
        session = open_session(quantiser.quantise(layers).SerializeToString())
        errors[name] = compare(answers_of(session, batches[:count]), expected[:count]).error
    return sorted(groups, key=lambda name: -errors[name])


def _measure(proto: Any, batches: Sequence[Tensor]) -> tuple[Any, Any]:
    """The graph prepared for the quantiser, and the range of each tensor around its layers."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator, quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(batches)

        def get_next(self) -> dict[str, Any] | None:
            images = next(self.batches, None)
            return None if images is None else {"images": images.numpy()}

    # the tools of the quantiser read and write files
    with tempfile.TemporaryDirectory() as place, graphs.quiet():
        given, prepared, watched = (Path(place, name) for name in ("given.onnx", "prepared.onnx", "watched.onnx"))
        onnx.save(proto, given)
        quant_pre_process(str(given), str(prepared), skip_symbolic_shape=True)
        ready = onnx.load(prepared)
        graphs.finish(ready)
        onnx.save(ready, prepared)
        calibrator = create_calibrator(
            prepared, [*_LAYERS, *_ACTIVATIONS], augmented_model_path=str(watched),
            calibrate_method=CalibrationMethod.MinMax,
        )  # fmt: skip
        calibrator.collect_data(Reader())
        return ready, calibrator.compute_data()
