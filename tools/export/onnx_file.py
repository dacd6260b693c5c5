"""Export of a module to a verified ONNX file on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from attnzoo_command.steps import step

from ..files import replacing
from . import checking, graphs
from .finishing import Finish
from .options import ExportOptions
from .precision import Fidelity, batches_of
from .preparation import check_output, prepare, to_trace
from .preprocess import Colours
from .tasks import Task


@dataclass(frozen=True)
class ExportReport:
    """A file that passed its check.

    Attributes:
        path: the file.
        file_size: in bytes.
        opset: ONNX opset version; None for a torch program.
        input_size: channels, height and width of an image; the model's own size for dynamic axes.
        dynamic: the dynamic axes, from "batch", "height" and "width".
        max_difference: largest difference to eager in float32 over all comparisons, relative to the largest value of
            an output.
        checked: shapes of the images that were compared, (B, C, H, W). For a network that chooses by rank, some of
            them may be inconclusive, see `checking.compare`.
        metadata: metadata of the file.
        precision: "fp32", "fp16" or "int8".
        kept: names of layers and types of operators that stay in float32 in a file of lower precision.
        fidelity: comparison of a file of lower precision with the same file in float32.
        time_ratio: latency of a file of lower precision divided by that in float32, on this machine with one thread.
    """

    path: Path
    file_size: int
    opset: int | None
    input_size: tuple[int, int, int]
    dynamic: tuple[str, ...]
    max_difference: float
    checked: tuple[tuple[int, ...], ...]
    metadata: Mapping[str, str]
    precision: str = "fp32"
    kept: tuple[str, ...] = ()
    fidelity: Fidelity | None = None
    time_ratio: float | None = None


def export_onnx(model: nn.Module, output: str | Path, **options: Any) -> ExportReport:
    """Exports a model in evaluation mode to an ONNX file; `model` itself is not modified.

    The file is compared with eager before it is moved to `output`. If the check fails, an existing file at `output`
    stays as it is.

    Args:
        model: maps (B, C, H, W) to (B, classes), or a detector; a timm model provides its image size and preprocessing.
        output: the file to write; its folder is created.
        options: fields of `ExportOptions`, except `form`.

    Returns:
        The written file and its difference to eager.

    Raises:
        TypeError: an unknown option.
        ValueError: options that do not fit each other or the model, an invalid image size, an output that is a folder,
            or `preprocess` for a model without mean and std.
        ExportError: the model cannot be written in standard ONNX, or the outputs of the file differ from eager.
        ImportError: the packages of `attnzoo[export]` are missing.
    """
    graphs.require_packages()
    chosen, output = ExportOptions.of(**options), Path(output)
    if chosen.form != "onnx":
        raise ValueError(f"export_onnx writes ONNX files only, got form {chosen.form!r}: call export_program")
    check_output(output)
    chosen.check(model, output)
    made = prepare(model, chosen)
    size = made.task.input_size
    colours = Colours.of(made.notes, size[0]) if chosen.preprocess else None
    images = batches_of(chosen.calibration, size, chosen.dynamic) if chosen.calibration is not None else []

    difference = 0.0
    filled = made.revealing()
    if filled is not None:
        step("checking a copy with noise in the place of zeros")
        content = graphs.serialise(to_graph(filled, chosen.dynamic, chosen.opset), {})
        difference = checking.check(content, filled, made.cases, chosen.tolerance)

    step("tracing the model")
    proto = to_graph(made.task, chosen.dynamic, chosen.opset)
    exact = checking.check(graphs.serialise(proto, {}), made.task, made.cases, chosen.tolerance)
    finish = Finish(chosen.precision, colours, images, chosen.least_agreement)
    finished = finish.apply(proto, made.task, made.cases, made.notes, chosen.tolerance)
    with replacing(output) as fresh:
        fresh.write_bytes(finished.content)
    return ExportReport(
        path=output,
        file_size=len(finished.content),
        opset=chosen.opset,
        input_size=size,
        dynamic=made.dynamic,
        max_difference=max(difference, exact, finished.difference),
        checked=made.checked,
        metadata=finished.notes,
        precision=chosen.precision,
        kept=finished.kept,
        fidelity=finished.fidelity,
        time_ratio=finished.time_ratio,
    )


def to_graph(task: Task, dynamic: Sequence[str], opset: int) -> Any:
    """Traces the network of a task to a `ModelProto`, with parallel branches and norms folded.

    Raises:
        ExportError: the network cannot be written in standard ONNX.
    """
    network, images = to_trace(task, dynamic)
    return graphs.trace(network, images, task.outputs, dynamic, opset, task.translations())
