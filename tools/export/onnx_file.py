"""A model as a verified ONNX file: the road from a module to what is kept on disk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..files import replacing
from . import checking, graphs
from .finishing import Finish
from .precision import Fidelity, batches_of, check_precision
from .preparation import OPSETS, check_output, prepare, task_of, to_trace
from .preprocess import Colours
from .tasks import Task


@dataclass(frozen=True)
class ExportReport:
    """A file that passed its check.

    Attributes:
        path: the file.
        file_size: in bytes.
        opset: version of the operators; None of a program of torch.
        input_size: channels, height and width of an image; of what is free, what the model is made for.
        dynamic: what is free, of "batch", "height" and "width".
        max_difference: largest difference to eager float32 over all that was compared, as a share of the largest
            number of an output.
        checked: shapes of the images that were compared, (B, C, H, W). Of a network that chooses by rank some may have
            told nothing, see `checking.compare`.
        metadata: what the file says of itself.
        precision: "fp32", "fp16" or "int8".
        kept: what stays in float32 of a file of lower precision: names of layers, and types of operators.
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


def export_onnx(
    model: nn.Module,
    output: Path,
    *,
    task: str | None = None,
    image_size: tuple[int, int] | None = None,
    dynamic: Sequence[str] = ("batch",),
    opset: int = 20,
    metadata: Mapping[str, str] | None = None,
    tolerance: float = 1e-4,
    precision: str = "fp32",
    calibration: Iterable[Tensor] | None = None,
    least_agreement: float = 0.95,
    preprocess: bool = False,
) -> ExportReport:
    """Writes a model as an ONNX file, in evaluation mode; `model` itself stays as it is.

    The file is compared with eager before it gets its name: what is at `output` is right, or is what was there.

    Args:
        model: maps (B, C, H, W) to (B, classes), or a detector; a model of timm brings its sizes and preprocessing
            along.
        output: the file to write; its folder is made.
        task: "classify" for `logits`; "features" for the maps of a backbone's stages, `features_0` and so on; "detect"
            for `boxes`, `scores` and `labels`. By default what the model is made for.
        image_size: height and width; by default what a model of timm names, or what a detector brings pictures to.
        dynamic: what the file leaves free, of "batch", "height" and "width"; of a detector the batch alone.
        opset: version of ONNX's operators, 18 .. 23.
        metadata: entries to add to the file's own, or to replace there.
        tolerance: largest difference allowed in float32, as a share of the largest number of an output.
        precision: "fp32"; "fp16" for half the size; "int8" for a quarter of it. The graph is checked in float32 before
            it is converted.
        calibration: batches of images (B, C, H, W), prepared as the model wants them, of which int8 learns the ranges
            of its numbers and by which lower precisions are judged (`precision.read_calibration`).
        least_agreement: share of the calibration images that a file of lower precision must give the class of float32.
        preprocess: the file takes pictures, uint8 (B, H, W, C), 0 .. 255, of the size that the model wants, and takes
            off the mean and divides by std itself.

    Returns:
        What was written and how far it is from eager.

    Raises:
        ValueError: an opset out of range, an unknown task, axis or precision, an unknown or impossible image size, an
            output that is a folder, int8 without calibration, preprocessing that the model does not say.
        ExportError: the model has no standard ONNX form, or the file gives other answers than eager.
        ImportError: the packages of `attnzoo[export]` are missing.
    """
    graphs.require_packages()
    check_output(output)
    if opset not in OPSETS:
        raise ValueError(f"opset must be 18 .. 23, got {opset}")
    check_precision(precision, task_of(model, task), calibration is not None)
    made = prepare(model, task, image_size, dynamic, metadata)
    size = made.task.input_size
    colours = Colours.of(made.notes, size[0]) if preprocess else None
    images = batches_of(calibration, size, dynamic) if calibration is not None else []

    difference = 0.0
    filled = made.revealing()
    if filled is not None:
        content = graphs.serialise(to_graph(filled, dynamic, opset), {})
        difference = checking.check(content, filled, made.cases, tolerance)

    proto = to_graph(made.task, dynamic, opset)
    difference = max(difference, checking.check(graphs.serialise(proto, {}), made.task, made.cases, tolerance))
    finish = Finish(precision, colours, images, least_agreement)
    finished = finish.apply(proto, made.task, made.cases, made.notes, tolerance)
    with replacing(output) as fresh:
        fresh.write_bytes(finished.content)
    return ExportReport(
        path=output,
        file_size=len(finished.content),
        opset=opset,
        input_size=size,
        dynamic=made.dynamic,
        max_difference=max(difference, finished.difference),
        checked=made.checked,
        metadata=finished.notes,
        precision=precision,
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
