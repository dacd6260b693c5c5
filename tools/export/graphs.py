"""ONNX graphs: traced from a module, restricted to standard operators, cleaned up, and serialised.

`tasks.py` defines what is exported, and `checking.py` verifies the result.
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

# Size limit of a file in bytes: the limit of protobuf, the format of ONNX files.
_LARGEST_FILE = 2**31 - 1
# torch writes these opsets; later ones are converted from the last. From 23 on torch writes Attention nodes, whose
# results differ between the devices of ONNX Runtime.
_TRACED_OPSETS = range(18, 21)

# Number of operators above which the graph of a program is only tidied, and not searched for patterns.
LONG = 10_000


# Names of the axes of images (B, C, H, W) that may be dynamic.
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
    """Traces a module to an ONNX graph of standard operators, `images` -> `outputs`, without local paths.

    Args:
        network: maps (B, C, H, W) to one tensor per name in `outputs`; in evaluation mode, and run once before.
        images: (2 or more, C, H, W); axes that are not dynamic have the size of the file.
        outputs: names of the outputs of the module.
        dynamic: the graph's dynamic axes, from `AXES`.
        opset: ONNX opset version.
        translations: ONNX translations of custom operators, by operator.

    Returns:
        A `ModelProto`, the same for the same module.

    Raises:
        ExportError: the module cannot be written in standard operators of this opset, or not with these dynamic axes.
    """
    # onnxscript is only installed with attnzoo[export]
    from . import dynamic_sizes

    name = title(network)
    program = capture(network, images, dynamic, "ONNX")
    # laying out tiles or decoding boxes takes thousands of nodes
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
    """Names the dynamic axes, which have symbols of the exporter."""
    axes = proto.graph.input[0].type.tensor_type.shape.dim
    names = {axes[AXES[axis]].dim_param: axis for axis in dynamic}
    for item in (*proto.graph.input, *proto.graph.output):
        for size in item.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(r"s\d+", lambda symbol: names.get(symbol[0], symbol[0]), size.dim_param)


def capture(network: nn.Module, images: Tensor, dynamic: Sequence[str], form: str) -> torch.export.ExportedProgram:
    """Traces a module to a program of torch operators, without local paths.

    Args:
        network: as in `trace`.
        images: as in `trace`.
        dynamic: the program's dynamic axes, from `AXES`.
        form: name of the exported form in error messages.

    Raises:
        ExportError: the module cannot be traced, or not with these dynamic axes.
    """
    with quiet(), torch.no_grad():
        try:
            shapes = {AXES[axis]: torch.export.Dim.DYNAMIC for axis in dynamic}
            program = torch.export.export(network, (images,), dynamic_shapes=(shapes,), strict=False)
        except Exception as error:
            # torch's message for a forward pass that depends on the size
            if "Constraints violated" in str(error):
                raise ExportError(
                    f"{title(network)} cannot be traced with dynamic {_joined(dynamic)}: its forward pass "
                    "depends on the size. Choose other dynamic axes with --dynamic"
                ) from error
            raise _cannot_write(network, dynamic, form, error) from error
    for node in program.graph.nodes:
        # source lines, with local paths
        node.meta.pop("stack_trace", None)
    return program


def title(network: nn.Module) -> str:
    """The name of a network in messages: of a segmenter its decoder and backbone, else its class."""
    return str(getattr(network, "title", type(network).__name__))


def _cannot_write(network: nn.Module, dynamic: Sequence[str], form: str, error: Exception) -> ExportError:
    reason = str(error).strip().split("\n")[0]
    name, axes = title(network), _joined(dynamic)
    return ExportError(f"torch cannot export {name} as {form} (dynamic axes: {axes}): {reason}")


def _joined(dynamic: Sequence[str]) -> str:
    return " and ".join(dynamic) or "none"


def serialise(proto: Any, metadata: Mapping[str, str]) -> bytes:
    """Serialises a graph; the same graph gives the same bytes.

    Args:
        proto: a `ModelProto`.
        metadata: metadata entries, text by key.

    Raises:
        ExportError: the graph is too large for a file.
    """
    del proto.metadata_props[:]
    for key in sorted(metadata):
        proto.metadata_props.add(key=key, value=metadata[key])
    if proto.ByteSize() > _LARGEST_FILE:
        raise ExportError(f"the model takes {proto.ByteSize() / 2**30:.1f} GiB, but an ONNX file holds at most 2 GiB")
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def finish(proto: Any) -> None:
    """Requires standard operators, and removes local paths and the notes of tools from a graph.

    Raises:
        ExportError: the graph has operators outside the ONNX standard.
    """
    _require_standard(proto)
    strip(proto)


def subgraphs(graph: Any) -> Iterator[Any]:
    """A graph and the graphs inside its If, Loop and Scan nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.HasField("g") else attribute.graphs:
                yield from subgraphs(inner)


def _name_by_module(proto: Any) -> None:
    """Prefixes the name of each node with its module, so that layers can be found in the graph."""
    for node in proto.graph.node:
        scopes = [entry.value for entry in node.metadata_props if entry.key == "pkg.torch.onnx.name_scopes"]
        # from the outermost module to the operator itself
        modules = ast.literal_eval(scopes[0])[:-1] if scopes else []
        # nodes that torch adds belong to no module, and their scope starts with an underscore
        if modules and modules[-1] and not modules[-1].startswith("_"):
            node.name = f"{modules[-1]}/{node.name}"


def _require_standard(proto: Any) -> None:
    nodes = [node for graph in subgraphs(proto.graph) for node in graph.node]
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in nodes if node.domain not in ("", "ai.onnx")})
    if foreign:
        raise ExportError(f"the model needs operators outside the ONNX standard: {', '.join(foreign)}")
    version = {entry.domain: entry.version for entry in proto.opset_import}[""]
    del proto.opset_import[:], proto.functions[:]
    proto.opset_import.add(domain="", version=version)


def _at_opset(proto: Any, name: str, opset: int) -> Any:
    version = proto.opset_import[0].version
    if version == opset:
        return proto
    if opset in _TRACED_OPSETS:
        raise ExportError(f"{name} cannot be written in opset {opset}, only in {version}: choose another opset")
    import onnx.version_converter

    try:
        converted = onnx.version_converter.convert_version(proto, opset)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise ExportError(f"{name} cannot be converted to opset {opset}: {reason}") from error
    strip(converted)
    return converted


def strip(proto: Any) -> None:
    """Removes the notes of exporters: source lines with local paths, and the names of their own symbols."""
    del proto.metadata_props[:]
    proto.ClearField("doc_string")
    for graph in subgraphs(proto.graph):
        # intermediate shapes contain the exporter's own symbols; every runtime infers them itself
        del graph.value_info[:]
        for item in (graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
            del item.metadata_props[:]
            item.ClearField("doc_string")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporter's warnings about its internals and its logs; errors are still raised as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def require_packages() -> None:
    """Raises an ImportError that says what to install if packages of `attnzoo[export]` are missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"{', '.join(missing)} missing: pip install 'attnzoo[export]'")
