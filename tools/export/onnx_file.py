"""A model as a verified ONNX file: the road from a module to what is kept on disk."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm.data
import torch
from torch import Tensor, nn

from attnzoo.blocks import fuse

from ..detectors import Detector
from ..files import replacing
from ..opening import check_size
from . import checking, graphs
from .detection import detect
from .finishing import Finish
from .graphs import AXES
from .notes import describe
from .precision import Fidelity, batches_of, check_precision
from .preprocess import Colours
from .tasks import Classify, Features, StageMaps, Task, run_network

OPSETS = range(18, 24)
TASKS = ("features", "classify", "detect")

# a free side is traced at this many pixels at least: then no map is so small that it is taken for a special case
_TRACED_SIDE = 600


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
        checked: shapes of the images that were compared, (B, C, H, W).
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
    check_arguments(output, opset, dynamic)
    model = copy.deepcopy(model).cpu().float().eval()
    task = task or ("detect" if isinstance(model, Detector) else "classify")
    check_precision(precision, task, calibration is not None)
    made = make_task(model, task, image_size)
    if task == "detect" and not {"batch"}.issuperset(dynamic):
        raise ValueError(
            f"a detector's file is for one image size, dynamic must be batch or none, got {','.join(dynamic)}: "
            "image_size says which"
        )
    classes = made.expected(checking.noise((2, *made.input_size)))["logits"].shape[1] if task == "classify" else None
    notes = {**describe(model, made.input_size, classes), **made.notes(), "task": task, **(metadata or {})}
    cases = checking.cases_of(made, dynamic)
    colours = Colours.of(notes, made.input_size[0]) if preprocess else None
    images = batches_of(calibration, made.input_size, dynamic) if calibration is not None else []

    difference = 0.0
    filled = made.revealing(checking.without_zeros(made.network))
    if filled is not None:
        content = graphs.serialise(to_graph(filled, dynamic, opset), {})
        difference = checking.check(content, filled, cases, tolerance)

    proto = to_graph(made, dynamic, opset)
    difference = max(difference, checking.check(graphs.serialise(proto, {}), made, cases, tolerance))
    finish = Finish(precision, colours, images, least_agreement)
    finished = finish.apply(proto, made, cases, notes, tolerance)
    with replacing(output) as fresh:
        fresh.write_bytes(finished.content)
    return ExportReport(
        path=output,
        file_size=len(finished.content),
        opset=opset,
        input_size=made.input_size,
        dynamic=tuple(dynamic),
        max_difference=max(difference, finished.difference),
        checked=tuple(dict.fromkeys(tuple(images.shape) for images in cases)),
        metadata=finished.notes,
        precision=precision,
        kept=finished.kept,
        fidelity=finished.fidelity,
        time_ratio=finished.time_ratio,
    )


def check_arguments(output: Path, opset: int | None, dynamic: Sequence[str]) -> None:
    """Refuses what no file can be written to or with; there is no opset where the file is no ONNX file.

    Raises:
        ValueError: an opset out of range, an unknown axis, an output that is a folder.
    """
    if opset is not None and opset not in OPSETS:
        raise ValueError(f"opset must be 18 .. 23, got {opset}")
    unknown = [axis for axis in dynamic if axis not in AXES]
    if unknown:
        raise ValueError(f"dynamic must be of {', '.join(AXES)}, got {', '.join(unknown)}")
    if output.is_dir():
        raise ValueError(f"output must be a file, but {output} is a folder: name the file in it, like model.onnx")


def make_task(model: nn.Module, task: str, image_size: tuple[int, int] | None) -> Task:
    """What a file of a model is for.

    Args:
        model: in evaluation mode.
        task: one of `TASKS`.
        image_size: height and width; by default what a model of timm names.

    Raises:
        ValueError: an unknown task, or one that the model is not for; an unknown or impossible image size.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if isinstance(model, Detector):
        if task != "detect":
            raise ValueError(f"the model is a detector: its file is for task detect, got {task}")
        return detect(model, image_size)
    if task == "detect":
        raise ValueError(
            f"{type(model).__name__} is no detector: task detect takes a directory that attnzoo train wrote for "
            "detection, and classify or features this model"
        )
    size = input_size_of(model, image_size)
    if task == "classify":
        return Classify(model, size)
    if not hasattr(model, "forward_intermediates"):
        raise ValueError(f"{type(model).__name__} gives no maps of its stages: --task classify exports its logits")
    network = StageMaps(model).eval()
    return Features(network, size, len(run_network(network, checking.noise((1, *size)))))


def input_size_of(model: nn.Module, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height and width of a model's images.

    Raises:
        ValueError: neither the model nor the caller says, or the size is none.
    """
    config = getattr(model, "pretrained_cfg", None)
    if image_size is None and not config:
        raise ValueError(f"image_size is needed: {type(model).__name__} is not a model of timm and names none itself")
    named = timm.data.resolve_model_data_config(model)["input_size"] if config else (3, 0, 0)
    height, width = image_size or named[1:]
    check_size(image_size)
    return named[0], height, width


def to_graph(task: Task, dynamic: Sequence[str], opset: int) -> Any:
    """The graph of a task, a `ModelProto`, with parallel branches and norms folded.

    Raises:
        ExportError: it has no standard ONNX form.
    """
    network, images = to_trace(task, dynamic)
    return graphs.trace(network, images, task.outputs, dynamic, opset, task.translations())


def to_trace(task: Task, dynamic: Sequence[str]) -> tuple[nn.Module, Tensor]:
    """The network of a task with parallel branches and norms folded, run once, and the images to trace it with."""
    network = fuse(copy.deepcopy(task.network))
    # what layers cache is then made of tensors, not of traces
    run_network(network, checking.noise((2, *task.input_size)))
    return network, torch.zeros(2, *_traced_size(task, dynamic))


def _traced_size(task: Task, dynamic: Sequence[str]) -> tuple[int, int, int]:
    channels, *sides = task.input_size
    for i, axis in enumerate(("height", "width")):
        if axis in dynamic:
            # the sides differ, so that they are not taken for one
            sides[i] *= -(-_TRACED_SIDE // sides[i]) + i
    return channels, sides[0], sides[1]
