"""ONNX graphs: traced from a module, held to standard operators, cleaned, and run.

`to_onnx` makes the bytes of a file, `open_session` runs them, `relative_difference` says how far two answers are
apart. What a file is for, and whether it is right, is `export.py`'s business.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# A file holds at most this much: the limit of protobuf, whose format ONNX is.
_LARGEST_FILE = 2**31 - 1


class ExportError(RuntimeError):
    """A model that standard ONNX cannot express, or a file that does not compute what the model does."""


def to_onnx(model: nn.Module, images: Tensor, opset: int, metadata: Mapping[str, str]) -> bytes:
    """The content of an ONNX file, `images` -> `logits` with a free batch; the same bytes for the same model.

    Args:
        model: maps (B, C, H, W) to (B, classes), in evaluation mode and run once before: what its layers cache is
            then made of tensors, not of traces.
        images: (2 or more, C, H, W) of the size that the file is for.
        opset: version of ONNX's operators.
        metadata: text that the file says of itself, by key.

    Raises:
        ExportError: the model has no form in standard operators of this version, or is too large for a file.
    """
    name = type(model).__name__
    with _quiet():
        try:
            program: Any = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise ExportError(f"torch cannot write {name} as ONNX with a free batch: {reason}") from error
    proto = program.model_proto
    _require_standard(proto, opset)
    # an exporter that fails with a free batch tries again without
    if not proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise ExportError(f"{name} cannot be traced with a free batch: its forward treats some batch sizes differently")
    _strip(proto)
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    if proto.ByteSize() > _LARGEST_FILE:
        raise ExportError(f"{name} takes {proto.ByteSize() / 2**30:.1f} GiB, and an ONNX file holds at most 2")
    return proto.SerializeToString(deterministic=True)


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from _graphs(inner)


def _require_standard(proto: Any, opset: int) -> None:
    nodes = [node for graph in _graphs(proto.graph) for node in graph.node]
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in nodes if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise ExportError(f"the model needs operators that are not ONNX's own: {', '.join(foreign)}")
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    if versions.get("") != opset:
        raise ExportError(f"the model has no form in opset {opset}, only in {versions.get('')}: choose another opset")
    del proto.opset_import[:], proto.functions[:]
    proto.opset_import.add(domain="", version=opset)


def _strip(proto: Any) -> None:
    """Removes what the exporter notes for itself: source lines with local paths, and names of its own symbols."""
    del proto.metadata_props[:]
    proto.ClearField("doc_string")
    for graph in _graphs(proto.graph):
        # shapes in between are full of the exporter's own symbols; every runtime infers them again
        del graph.value_info[:]
        for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            del item.metadata_props[:]
            item.ClearField("doc_string")


def relative_difference(given: Tensor, expected: Tensor) -> float:
    """max |given - expected| / max |expected|; infinite where either is not finite, or only `expected` is zero."""
    if torch.equal(given, expected):
        return 0.0
    worst = ((given - expected).abs().max() / expected.abs().max()).item()
    return worst if worst < float("inf") else float("inf")


def open_session(model: bytes | Path, threads: int | None = None) -> Any:
    """An ONNX Runtime session on the CPU.

    Args:
        model: a file, or its content.
        threads: by default as many as torch uses.

    Raises:
        ExportError: ONNX Runtime cannot load the file.
        ImportError: the packages of `attnzoo[export]` are missing.
    """
    require_packages()
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        content = model if isinstance(model, bytes) else str(model)
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ExportError(f"ONNX Runtime cannot load the file: {error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns of its own internals and logs every step; its errors still arrive as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def require_packages() -> None:
    """Raises ImportError, with what to install, where the packages of `attnzoo[export]` are missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} missing: pip install 'attnzoo[export]'")
