"""Where a model can run on a CPU: each runtime makes, of a network, something to call with images.

Shape legend: B batch, C channels, H W image, h heads, D width of a head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo.blocks import NeighborhoodAttention, fuse
from attnzoo.blocks.neighborhood import padding_of
from attnzoo.kernels.neighborhood.geometry import Axis
from attnzoo.kernels.neighborhood.padding import padded

from ..export import graphs
from ..export.onnx_file import to_graph
from ..export.programs import compile_package
from ..export.sessions import open_session, run
from ..export.tasks import Task
from .neighborhood_peers import gather
from .operators import Function

Call = Callable[[Tensor], Tensor]
_OPSET = 20


class NotForThisModelError(RuntimeError):
    """A runtime that has nothing to show on a model."""


@dataclass
class Exported:
    """A classifier and the files made of it, each of them once.

    Attributes:
        task: with the network, in evaluation mode.
        folder: where files are written.
    """

    task: Task
    folder: Path
    _content: bytes | None = None
    _package: Any = None

    @property
    def content(self) -> bytes:
        """The ONNX file."""
        if self._content is None:
            self._content = graphs.serialise(to_graph(self.task, ("batch",), _OPSET), {})
        return self._content

    @property
    def package(self) -> Any:
        """The package of AOTInductor, opened."""
        if self._package is None:
            self._package = compile_package(self.task, ("batch",), self.folder / "model.pt2", {})
        return self._package


def eager(exported: Exported) -> Call:
    """The network as it is."""
    return _logits(exported.task.network)


def fused(exported: Exported) -> Call:
    """The network with parallel branches and norms folded, which all that follow start from, too."""
    return _logits(fuse(copy.deepcopy(exported.task.network)))


def compiled(exported: Exported) -> Call:
    """By torch.compile, for the batch that comes first."""
    # every batch is a compilation of its own: a second one would be compiled for any
    torch._dynamo.reset()
    return _logits(torch.compile(fuse(copy.deepcopy(exported.task.network)), dynamic=False))


def aoti(exported: Exported) -> Call:
    """A package of AOTInductor for any batch."""
    return _logits(exported.package)


def onnxruntime(exported: Exported) -> Call:
    """The ONNX file in ONNX Runtime, for any batch."""
    return _in_session(exported.content)


def openvino(exported: Exported) -> Call:
    """The same file in OpenVINO."""
    import openvino

    file = exported.folder / "model.onnx"
    file.write_bytes(exported.content)
    settings = {
        "INFERENCE_NUM_THREADS": 1,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # where the processor multiplies bfloat16 faster, that is what it would do
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = openvino.Core().compile_model(str(file), "CPU", settings)
    return lambda images: torch.from_numpy(model({"images": images.numpy()})["logits"])


def gathered(exported: Exported) -> Call:
    """An ONNX file as neighborhood attention is written naively: every query gathers its keys.

    Raises:
        NotForThisModelError: the network has no neighborhood attention, or a causal one.
    """
    network = copy.deepcopy(exported.task.network)
    blocks = [module for module in network.modules() if isinstance(module, NeighborhoodAttention)]
    if not blocks:
        raise NotForThisModelError("no neighborhood attention in it")
    if any(any(block.is_causal) for block in blocks):
        raise NotForThisModelError("the windows are causal, and hold fewer keys at the border")
    for block in blocks:
        block.__class__, block.gathers = GatherAttention, {}  # type: ignore[assignment]
    return _in_session(graphs.serialise(to_graph(exported.task.with_network(network), ("batch",), _OPSET), {}))


# by name, in the order of the table
RUNTIMES: dict[str, Callable[[Exported], Call]] = {
    "eager": eager,
    "fused": fused,
    "compile": compiled,
    "aoti": aoti,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "gather": gathered,
}


class GatherAttention(NeighborhoodAttention):
    """The block with the gather of the reference in place of tiles."""

    # by the size of the map; what does not depend on the images is made before the trace
    gathers: dict[tuple[int, int], Function]

    def _attend(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        geometry = zip(queries.shape[1:3], self.kernel_size, self.dilation, self.stride, self.is_causal, strict=True)
        rows, columns = (Axis(*arguments) for arguments in geometry)
        return padded(self._gather, queries, keys, values, (rows, columns), padding_of(self, keys.dtype))

    def _gather(self, queries: Tensor, keys: Tensor, values: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
        size = axes[0].length, axes[1].length
        if size not in self.gathers:
            self.gathers[size] = gather(*axes)
        table = (self.num_heads, *(2 * kernel - 1 for kernel in self.kernel_size))
        bias = queries.new_zeros(table) if self.rpb is None else self.rpb
        return self.gathers[size](queries, keys, values, bias)


def _in_session(content: bytes) -> Call:
    session = open_session(content, threads=1)
    return lambda images: run(session, images)["logits"]


def _logits(network: nn.Module | Callable[[Tensor], Any]) -> Call:
    def call(images: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = network(images)
            return answer

    return call
