"""What every export begins with: arguments, a task, what the file is to say, what it is checked on, what is traced."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import timm.data
import torch
from torch import Tensor, nn

from attnzoo.blocks import fuse

from ..detectors import Detector
from ..files import check_writable
from ..opening import check_size
from . import checking
from .detection import detect
from .graphs import AXES
from .notes import describe
from .tasks import Classify, Features, StageMaps, Task, run_network

OPSETS = range(18, 24)
TASKS = ("features", "classify", "detect")

# a free side is traced at this many pixels at least: then no map is so small that it is taken for a special case
_TRACED_SIDE = 600


@dataclass(frozen=True)
class Export:
    """What is to become a file.

    Attributes:
        task: what the file is for, with the network.
        dynamic: what is left free, of "batch", "height" and "width".
        notes: what the file is to say of itself.
        cases: batches of images (B, C, H, W) that it is checked on.
    """

    task: Task
    dynamic: tuple[str, ...]
    notes: Mapping[str, str]
    cases: Sequence[Tensor]

    @property
    def checked(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the images that the file is checked on, those included on which rounding decides."""
        return tuple(dict.fromkeys(tuple(images.shape) for images in self.cases))

    def revealing(self) -> Task | None:
        """The task of a copy on which the check can fail, where it cannot on the network itself."""
        return self.task.revealing(checking.without_zeros(self.task.network))


def prepare(
    model: nn.Module,
    task: str | None,
    image_size: tuple[int, int] | None,
    dynamic: Sequence[str],
    metadata: Mapping[str, str] | None,
) -> Export:
    """Makes of a model what is exported; the model itself stays as it is.

    Args:
        model, task, image_size, dynamic, metadata: as in `export_onnx`.

    Raises:
        ValueError: as in `export_onnx`.
    """
    unknown = [axis for axis in dynamic if axis not in AXES]
    if unknown:
        raise ValueError(f"dynamic must be of {', '.join(AXES)}, got {', '.join(unknown)}")
    model = copy.deepcopy(model).cpu().float().eval()
    task = task_of(model, task)
    made = make_task(model, task, image_size)
    if task == "detect" and not {"batch"}.issuperset(dynamic):
        raise ValueError(
            f"a detector's file is for one image size, dynamic must be batch or none, got {','.join(dynamic)}: "
            "image_size says which"
        )
    answer = _answer(made)
    classes = answer["logits"].shape[1] if task == "classify" else None
    notes = {**describe(model, made.input_size, classes), **made.notes(), "task": task, **(metadata or {})}
    return Export(made, tuple(dynamic), notes, checking.cases_of(made, dynamic))


def task_of(model: nn.Module, task: str | None) -> str:
    """The task that was asked for, or the one that a model is made for."""
    return task or ("detect" if isinstance(model, Detector) else "classify")


def _answer(task: Task) -> dict[str, Tensor]:
    """What the network gives for images of the size that the file is for.

    Raises:
        ValueError: it does not take them; says which size is near.
    """
    _, *size = task.input_size
    try:
        return task.expected(task.to_range(checking.noise((2, *task.input_size))))
    except ValueError as error:
        near = None if "does not take images" not in str(error) else checking.nearest_size(task, (size[0], size[1]))
        if near is None:
            raise
        raise ValueError(f"{error}. The nearest that it takes is {near[0]} {near[1]}") from error


def check_output(output: Path) -> None:
    """Makes the folder of a file, and refuses a place where no file can be, before anything takes time.

    Raises:
        ValueError: it is a folder, or cannot be written to.
    """
    if output.is_dir():
        raise ValueError(f"output must be a file, but {output} is a folder: name the file in it, like model.onnx")
    check_writable(output.parent, f"choose another place for {output.name}")


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
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        raise ValueError(f"{type(model).__name__} gives no maps of its stages: --task classify exports its logits")
    return Features(StageMaps(model).eval(), size, len(model.feature_info))  # type: ignore[arg-type]


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
