"""Runtimes of a model: each turns a classifier into a function from images (B, C, H, W) to logits."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnzoo.blocks import fuse

from ..export.tasks import Task

Call = Callable[[Tensor], Tensor]
OPSET = 20


@dataclass
class Exported:
    """A classifier and its ONNX file, which is exported once.

    Attributes:
        task: task with the network, in evaluation mode.
        folder: folder for files.
        threads: number of threads of a runtime.
    """

    task: Task
    folder: Path
    threads: int = 1
    _content: bytes | None = None

    @property
    def content(self) -> bytes:
        """Content of the ONNX file, with a dynamic batch."""
        if self._content is None:
            from ..export import graphs
            from ..export.onnx_file import to_graph

            self._content = graphs.serialise(to_graph(self.task, ("batch",), OPSET), {})
        return self._content


def eager(exported: Exported) -> Call:
    """The network as it is."""
    return logits_of(exported.task.network)


def fused(exported: Exported) -> Call:
    """The network with parallel branches and norms folded; the following runtimes use it too."""
    return logits_of(fuse(copy.deepcopy(exported.task.network)))


def compiled(exported: Exported) -> Call:
    """The fused network compiled by torch.compile, for the first batch size."""
    # compile for each batch size: torch would otherwise compile the second one for a dynamic batch
    torch._dynamo.reset()
    return logits_of(torch.compile(fuse(copy.deepcopy(exported.task.network)), dynamic=False))


def onnxruntime(exported: Exported) -> Call:
    """The ONNX file in ONNX Runtime."""
    return in_session(exported.content, exported.threads)


def openvino(exported: Exported) -> Call:
    """The same file in OpenVINO, in float32."""
    import openvino

    file = exported.folder / "model.onnx"
    file.write_bytes(exported.content)
    settings = {
        "INFERENCE_NUM_THREADS": exported.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # otherwise it uses bfloat16 on processors where that is faster
        "INFERENCE_PRECISION_HINT": "f32",
    }
    model = openvino.Core().compile_model(str(file), "CPU", settings)
    return lambda images: torch.from_numpy(model({"images": images.numpy()})["logits"])


# by name, in the order of a table
RUNTIMES: dict[str, Callable[[Exported], Call]] = {
    "eager": eager,
    "fused": fused,
    "compiled": compiled,
    "onnxruntime": onnxruntime,
    "openvino": openvino,
}
# runtimes that use torch's own operators, on any device
OF_TORCH = ("eager", "fused", "compiled")


def in_session(content: bytes, threads: int = 1) -> Call:
    """An ONNX file in ONNX Runtime."""
    from ..export.sessions import open_session, run

    session = open_session(content, threads=threads)
    return lambda images: run(session, images)["logits"]


def logits_of(network: nn.Module | Callable[[Tensor], Any]) -> Call:
    """Calls a network without gradients."""

    def call(images: Tensor) -> Tensor:
        with torch.no_grad():
            answer: Tensor = network(images)
            return answer

    return call
