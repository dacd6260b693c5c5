"""Half precision: weights and maps in float16, and in float32 where needed; inputs and outputs stay float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..graphs import subgraphs
from ..sessions import open_session

# The first two groups sum or square many values, and runtimes may do so in the type of the input; only for
# LayerNormalization does the standard require float32. The others have no float16 form in common runtimes.
_SUMS = (
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSumExp",
    "CumSum",
    "Pow",
    "Sqrt",
)
_NORMS = ("InstanceNormalization", "GroupNormalization")
_OTHERS = ("TopK", "Range", "Resize", "RoiAlign", "NonMaxSuppression", "If", "Loop", "Scan")
_SINGLE = frozenset((*_SUMS, *_NORMS, *_OTHERS))
_LARGEST_HALF = 65504.0
# other images may reach larger values than the images of the check
_MARGIN = 4.0
_MASKED = 1e8


def to_half(proto: Any, cases: Sequence[Tensor]) -> tuple[Any, tuple[str, ...]]:
    """Converts a graph to float16, except for operators whose values are too large or whose sums are too long.

    Tensors that do not depend on pixel values, such as positions computed from the image size, stay in float32 too.

    Args:
        proto: a `ModelProto` in float32.
        cases: batches of images (B, C, H, W) to measure the magnitude of the tensors.

    Returns:
        The new `ModelProto`, and the types of operators and names of overflowing nodes that stay in float32.
    """
    import onnx

    proto = onnx.shape_inference.infer_shapes(proto)
    overflowing = _overflowing(proto, cases)
    coloured = _coloured(proto.graph)
    single = {
        node.name
        for node in proto.graph.node
        if node.op_type in _SINGLE or node.name in overflowing or not coloured.intersection(node.output)
    }
    rewriter = _Rewriter(proto.graph, single)
    rewriter.rewrite()
    kept = sorted({node.op_type for node in proto.graph.node} & _SINGLE)
    return proto, (*kept, *sorted(overflowing))


def _overflowing(proto: Any, cases: Sequence[Tensor]) -> set[str]:
    """Names of nodes whose inputs or outputs are too large for float16, or close to that."""
    import onnx

    largest = {
        tensor.name: _magnitude(onnx.numpy_helper.to_array(tensor))
        for tensor in proto.graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
    }
    watched = onnx.ModelProto()
    watched.CopyFrom(proto)
    for entry in proto.graph.value_info:
        if entry.type.tensor_type.elem_type == onnx.TensorProto.FLOAT:
            watched.graph.output.add(name=entry.name).type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    session = open_session(watched.SerializeToString())
    names = [entry.name for entry in session.get_outputs()]
    for images in cases:
        for name, value in zip(names, session.run(names, {"images": images.numpy()}), strict=True):
            largest[name] = max(largest.get(name, 0.0), _magnitude(value))
    return {
        node.name
        for node in proto.graph.node
        if any(largest.get(name, 0.0) > _LARGEST_HALF / _MARGIN for name in (*node.input, *node.output))
    }


def _magnitude(values: Any) -> float:
    sizes = np.abs(values)
    # infinities and values used in place of them are masks: in float16 they are still far below every score
    return float(sizes[sizes < _MASKED].max(initial=0.0))


def _coloured(graph: Any) -> set[str]:
    """Tensors that depend on the pixel values of the images, not only on their size."""
    found = {"images"}
    for node in graph.node:
        if node.op_type not in ("Shape", "Size") and (found.intersection(node.input) or node.op_type in ("If", "Loop")):
            found.update(node.output)
    return found


class _Rewriter:
    """Gives every float tensor the type of the node that outputs it, and casts it once if the other type is needed.

    Args:
        graph: a `GraphProto` with inferred tensor types; it is modified.
        single: names of the nodes that stay in float32.
    """

    def __init__(self, graph: Any, single: set[str]) -> None:
        from onnx import TensorProto, helper

        self.graph, self.single = graph, single
        self.half_type, self.single_type, self.make_node = TensorProto.FLOAT16, TensorProto.FLOAT, helper.make_node
        entries = (*graph.value_info, *graph.input, *graph.output)
        self.floats = {entry.name for entry in entries if entry.type.tensor_type.elem_type == TensorProto.FLOAT}
        # names of float16 tensors by their names in float32, and names of the tensors that exist in float32
        self.halves: dict[str, str] = {}
        self.singles = {entry.name for entry in graph.input} & self.floats
        self.nodes: list[Any] = []

    def rewrite(self) -> None:
        """Rewrites the graph."""
        self._place_weights()
        for node in self.graph.node:
            is_single = node.name in self.single
            for i, name in enumerate(node.input):
                if name in self.floats:
                    node.input[i] = self._as_single(name) if is_single else self._as_half(name)
            for name in sorted(_captured(node) & self.floats):
                self._as_single(name)
            made = [name for name in node.output if name in self.floats]
            if is_single:
                self.singles.update(made)
            else:
                self._make_half(node, made)
            self.nodes.append(node)
        for entry in self.graph.output:
            if entry.name in self.floats:
                self._as_single(entry.name)
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(self.nodes)

    def _place_weights(self) -> None:
        wanted = {
            name
            for node in self.graph.node
            for name in (*(node.input if node.name in self.single else ()), *_captured(node))
        }
        for tensor in self.graph.initializer:
            if tensor.data_type != self.single_type:
                continue
            self.floats.add(tensor.name)
            if tensor.name in wanted:
                self.singles.add(tensor.name)
            else:
                tensor.CopyFrom(_in_half(tensor))
                self.halves[tensor.name] = tensor.name

    def _make_half(self, node: Any, made: list[str]) -> None:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self.single_type:
                attribute.i = self.half_type
            elif attribute.HasField("t") and attribute.t.data_type == self.single_type:
                attribute.t.CopyFrom(_in_half(attribute.t))
        for i, name in enumerate(node.output):
            if name in made:
                node.output[i] = self.halves[name] = f"{name}/half"

    def _as_half(self, name: str) -> str:
        if name not in self.halves:
            self.halves[name] = f"{name}/half"
            self._cast(name, self.halves[name], self.half_type)
        return self.halves[name]

    def _as_single(self, name: str) -> str:
        if name not in self.singles:
            self.singles.add(name)
            self._cast(self.halves[name], name, self.single_type)
        return name

    def _cast(self, source: str, target: str, to: int) -> None:
        self.nodes.append(self.make_node("Cast", [source], [target], name=f"{target}/cast", to=to))


def _captured(node: Any) -> set[str]:
    """Names used in the graphs inside a node, captured from outside or local."""
    inner = [
        graph
        for attribute in node.attribute
        for graph in (*attribute.graphs, *((attribute.g,) if attribute.HasField("g") else ()))
    ]
    return {name for graph in inner for part in subgraphs(graph) for x in part.node for name in x.input} | {
        entry.name for graph in inner for entry in graph.output
    }


def _in_half(tensor: Any) -> Any:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    # values of a mask are clipped to half the range, so that adding a score does not make them infinite
    limit = _LARGEST_HALF / 2
    values = np.where(np.isfinite(values) & (np.abs(values) > _LARGEST_HALF), np.clip(values, -limit, limit), values)
    return numpy_helper.from_array(values.astype(np.float16), tensor.name)
