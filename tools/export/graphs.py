"""ONNX graphs: traced from a module, held to standard operators, cleaned, and written.

`tasks.py` says what a file is for, and `checking.py` whether it is right.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import optimization

# A file holds at most this much: the limit of protobuf, whose format ONNX is.
_LARGEST_FILE = 2**31 - 1
# torch writes these itself; later ones are converted, for from 23 on it writes Attention nodes, on which the devices
# of ONNX Runtime disagree
_TRACED_OPSETS = range(18, 21)

# Operators of a program from which on its graph is not searched for patterns, and only tidied.
LONG = 10_000


# What may be dynamic of an image (B, C, H, W), and its axis.
AXES = {"batch": 0, "height": 2, "width": 3}


class ExportError(RuntimeError):
    """A model that standard ONNX cannot express, or a file that does not compute what the model does."""


def trace(
    network: nn.Module,
    images: Tensor,
    outputs: Sequence[str],
    dynamic: Sequence[str],
    opset: int,
    translations: Mapping[Any, Callable[..., Any]] | None = None,
) -> Any:
    """A module as an ONNX graph of standard operators, `images` -> `outputs`, without anything local in it.

    Args:
        network: maps (B, C, H, W) to one tensor per name of `outputs`, in evaluation mode and run once before.
        images: (2 or more, C, H, W), of the size that the file is for where that is not dynamic.
        outputs: names of what the module gives.
        dynamic: the graph's dynamic axes, of `AXES`.
        opset: version of ONNX's operators.
        translations: how operators that are not torch's own are written, by operator.

    Returns:
        A `ModelProto`, the same for the same module.

    Raises:
        ExportError: the module has no form in standard operators of this version, or not with these axes dynamic.
    """
    # onnxscript comes with the extra
    from . import dynamic_sizes

    name = type(network).__name__
    program = capture(network, images, dynamic, "ONNX")
    # thousands of nodes lay tiles out, or decode boxes
    is_long = bool(translations) or not {"batch"}.issuperset(dynamic) or len(program.graph.nodes) > LONG
    with quiet(), torch.no_grad():
        try:
            written: Any = torch.onnx.export(
                program,
                (images,),
                dynamo=True,
                opset_version=min(opset, _TRACED_OPSETS[-1]),
                input_names=["images"],
                output_names=list(outputs),
                custom_translation_table={
                    **optimization.translations(),
                    **dynamic_sizes.translations(),
                    **(translations or {}),
                },
                optimize=not is_long,
                verbose=False,
            )
        except Exception as error:
            raise _cannot_write(network, dynamic, "ONNX", error) from error
        if is_long:
            optimization.tidy(written.model)
    proto = written.model_proto
    _name_by_module(proto)
    _name_axes(proto, dynamic)
    finish(proto)
    return _at_opset(proto, name, opset)


def _name_axes(proto: Any, dynamic: Sequence[str]) -> None:
    """Names the dynamic axes, where the exporter has symbols of its own."""
    axes = proto.graph.input[0].type.tensor_type.shape.dim
    names = {axes[AXES[axis]].dim_param: axis for axis in dynamic}
    for item in (*proto.graph.input, *proto.graph.output):
        for size in item.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"s\d+", lambda symbol: names.get(symbol[0], symbol[0]), size.dim_param)


def capture(network: nn.Module, images: Tensor, dynamic: Sequence[str], form: str) -> torch.export.ExportedProgram:
    """A module as a program of torch's operators, without anything local in it.

    Args:
        network: as in `trace`.
        images: as in `trace`.
        dynamic: the program's dynamic axes, of `AXES`.
        form: what becomes of it, for messages.

    Raises:
        ExportError: the module cannot be traced, or not with these axes dynamic.
    """
    with quiet(), torch.no_grad():
        try:
            shapes = {AXES[axis]: torch.export.Dim.DYNAMIC for axis in dynamic}
            program = torch.export.export(network, (images,), dynamic_shapes=(shapes,), strict=False)
        except Exception as error:
            # how torch says that a forward asks for the size
            if "Constraints violated" in str(error):
                raise ExportError(
                    f"{type(network).__name__} cannot be traced with dynamic {_joined(dynamic)}: its forward treats "
                    "some sizes differently. --dynamic says which axes are dynamic"
                ) from error
            raise _cannot_write(network, dynamic, form, error) from error
    for node in program.graph.nodes:
        # source lines, with local paths
        node.meta.pop("stack_trace", None)
    return program


def _cannot_write(network: nn.Module, dynamic: Sequence[str], form: str, error: Exception) -> ExportError:
    reason = str(error).strip().split("\n")[0]
    name, axes = type(network).__name__, _joined(dynamic)
    return ExportError(f"torch cannot write {name} as {form} with dynamic {axes}: {reason}")


def _joined(dynamic: Sequence[str]) -> str:
    return " and ".join(dynamic) or "nothing"


def serialise(proto: Any, metadata: Mapping[str, str]) -> bytes:
    """The content of a file, the same bytes for the same graph.

    Args:
        proto: a `ModelProto`.
        metadata: text that the file says of itself, by key.

    Raises:
        ExportError: it is too large for a file.
    """
    del proto.metadata_props[:]
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    if proto.ByteSize() > _LARGEST_FILE:
        raise ExportError(f"the model takes {proto.ByteSize() / 2**30:.1f} GiB, and an ONNX file holds at most 2")
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def finish(proto: Any) -> None:
    """Leaves standard operators and what they need in a graph, nothing local, nothing that a tool noted for itself.

    Raises:
        ExportError: it has other operators.
    """
    _require_standard(proto)
    strip(proto)


def subgraphs(graph: Any) -> Iterator[Any]:
    """A graph and those inside its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from subgraphs(inner)


def _name_by_module(proto: Any) -> None:
    """Puts the module that a node is of before its name: who looks at the graph finds the layer again."""
    for node in proto.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        # from the outermost module to the operator itself
        modules = ast.literal_eval(scopes[0])[:-1] if scopes else []
        # what torch adds for itself is of no module, and says so in a name of its own
        if modules and modules[-1] and not modules[-1].startswith("_"):
            node.name = f"{modules[-1]}/{node.name}"


def _require_standard(proto: Any) -> None:
    nodes = [node for graph in subgraphs(proto.graph) for node in graph.node]
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in nodes if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise ExportError(f"the model needs operators that are not ONNX's own: {', '.join(foreign)}")
    version = {entry.domain: entry.version for entry in proto.opset_import}[""]
    del proto.opset_import[:], proto.functions[:]
    proto.opset_import.add(domain="", version=version)


def _at_opset(proto: Any, name: str, opset: int) -> Any:
    version = proto.opset_import[0].version
    if version == opset:
        return proto
    if opset in _TRACED_OPSETS:
        raise ExportError(f"{name} has no form in opset {opset}, only in {version}: choose another opset")
    import onnx.version_converter

    try:
        converted = onnx.version_converter.convert_version(proto, opset)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ExportError(f"{name} cannot be converted to opset {opset}: {reason}") from error
    strip(converted)
    return converted


def strip(proto: Any) -> None:
    """Removes what exporters note for themselves: source lines with local paths, and names of their own symbols."""
    del proto.metadata_props[:]
    proto.ClearField("doc_string")
    for graph in subgraphs(proto.graph):
        # shapes in between are full of the exporter's own symbols; every runtime infers them again
        del graph.value_info[:]
        for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            del item.metadata_props[:]
            item.ClearField("doc_string")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
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
