"""A model as a verified ONNX file: from a module to the file on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

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
        opset: version of the operators; None of a program of torch.
        input_size: channels, height and width of an image; where those are dynamic, the model's own.
        dynamic: the dynamic axes, of "batch", "height" and "width".
        max_difference: largest difference to eager float32 over all that was compared, as a share of the largest
            number of an output.
        checked: shapes of the images that were compared, (B, C, H, W). Of a network that chooses by rank some may have
            told nothing, see `checking.compare`.
        metadata: of the file.
        precision: "fp32", "fp16" or "int8".
        kept: names of layers and types of operators that stay in float32 in a file of lower precision.
        fidelity: of a file of lower precision, beside the same file in float32.
        time_ratio: latency of a file of lower precision, as a share of that in float32, on this machine, one thread.
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


def export_onnx(model: nn.Module, output: Path, **options: Any) -> ExportReport:
    """Writes a model as an ONNX file, in evaluation mode; `model` itself stays as it is.

    The file is compared with eager before it gets its name: the file at `output` is right, or is what was there.

    Args:
        model: maps (B, C, H, W) to (B, classes), or a detector; a model of timm brings its sizes and preprocessing
            along.
        output: the file to write; its folder is made.
        options: fields of `ExportOptions`, but for `form`.

    Returns:
        What was written and how far it is from eager.

    Raises:
        TypeError: an unknown option.
        ValueError: options that do not fit each other or the model, an impossible image size, an output that is a
            folder, preprocessing that the model does not say.
        ExportError: the model has no standard ONNX form, or the file gives other answers than eager.
        ImportError: the packages of `attnzoo[export]` are missing.
    """
    graphs.require_packages()
    chosen = ExportOptions(**options)
    check_output(output)
    chosen.check(model, output)
    made = prepare(model, chosen)
    size = made.task.input_size
    colours = Colours.of(made.notes, size[0]) if chosen.preprocess else None
    images = batches_of(chosen.calibration, size, chosen.dynamic) if chosen.calibration is not None else []

    difference = 0.0
    filled = made.revealing()
    if filled is not None:
        content = graphs.serialise(to_graph(filled, chosen.dynamic, chosen.opset), {})
        difference = checking.check(content, filled, made.cases, chosen.tolerance)

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
    """The graph of a task, a `ModelProto`, with parallel branches and norms folded.

    Raises:
        ExportError: it has no standard ONNX form.
    """
    network, images = to_trace(task, dynamic)
    return graphs.trace(network, images, task.outputs, dynamic, opset, task.translations())
