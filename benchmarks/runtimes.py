"""Runtimes in addition to those of `attnzoo bench`: AOTInductor, and gather-based neighborhood attention.

Shape legend: B batch, H W image, h heads, D width of a head.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from attnzoo.blocks import NeighborhoodAttention
from attnzoo.kernels.neighborhood.geometry import Axis
from attnzoo.kernels.neighborhood.padding import padded
from attnzoo.tools.bench import runtimes
from attnzoo.tools.bench.runtimes import OPSET, Call, Exported, in_session, logits_of
from attnzoo.tools.export import graphs
from attnzoo.tools.export.onnx_file import to_graph
from attnzoo.tools.export.programs import compile_package

from .neighborhood_peers import gather
from .operators import Function


class NotForThisModelError(RuntimeError):
    """The runtime does not apply to the model."""


def aoti(exported: Exported) -> Call:
    """A package of AOTInductor for any batch size."""
    # one file for all batch sizes
    file = exported.folder / "model.pt2"
    if file.exists():
        return logits_of(torch._inductor.aoti_load_package(str(file)))
    return logits_of(compile_package(exported.task, ("batch",), file, {}))


def gathered(exported: Exported) -> Call:
    """An ONNX file with naive neighborhood attention, in which every query gathers its keys.

    Raises:
        NotForThisModelError: the model has no neighborhood attention, or it is causal.
    """
    network = copy.deepcopy(exported.task.network)
    blocks = [module for module in network.modules() if isinstance(module, NeighborhoodAttention)]
    if not blocks:
        raise NotForThisModelError("the model has no neighborhood attention")
    if any(any(block.is_causal) for block in blocks):
        raise NotForThisModelError("causal windows have fewer keys at the border")
    for block in blocks:
        block.__class__, block.gathers = GatherAttention, {}  # type: ignore[assignment]
    return in_session(graphs.serialise(to_graph(exported.task.with_network(network), ("batch",), OPSET), {}))


# by name, in the order of the table
RUNTIMES: dict[str, Callable[[Exported], Call]] = {
    "eager": runtimes.eager,
    "fused": runtimes.fused,
    "compile": runtimes.compiled,
    "aoti": aoti,
    "onnxruntime": runtimes.onnxruntime,
    "openvino": runtimes.openvino,
    "gather": gathered,
}


class GatherAttention(NeighborhoodAttention):
    """Neighborhood attention in which every query gathers its keys."""

    # by map size; indices are computed before tracing
    gathers: dict[tuple[int, int], Function]

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        queries, keys, values = self._project(x).unbind(3)
        geometry = zip(queries.shape[1:3], self.kernel_size, self.dilation, self.stride, self.is_causal, strict=True)
        rows, columns = (Axis(*arguments) for arguments in geometry)
        padding = self.padding(keys.dtype)
        out = padded(self._gather, queries, keys, values, (rows, columns), padding)
        return self.proj_drop(self.proj(out.flatten(3)))

    def _gather(self, queries: Tensor, keys: Tensor, values: Tensor, axes: tuple[Axis, Axis]) -> Tensor:
        size = axes[0].length, axes[1].length
        if size not in self.gathers:
            self.gathers[size] = gather(*axes)
        table = (self.num_heads, *(2 * kernel - 1 for kernel in self.kernel_size))
        bias = queries.new_zeros(table) if self.rpb is None else self.rpb
        return self.gathers[size](queries, keys, values, bias)
