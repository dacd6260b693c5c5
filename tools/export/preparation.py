"""The first steps of every export: the task, the metadata, the images of the check, and the network to trace."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attnzoo.blocks import fold_reparametrization, fuse
from attnzoo_command.steps import step

from ..files import check_writable
from . import checking
from .options import ExportOptions
from .tasks import Task, describe, make_task, run_network, task_of

# least pixels of a dynamic side in the trace, so that no map is small enough to be traced as a special case
_TRACED_SIDE = 600


@dataclass(frozen=True)
class Export:
    """A prepared export.

    Attributes:
        task: task of the file, with the network.
        dynamic: the dynamic axes, from "batch", "height" and "width".
        notes: metadata of the file.
        cases: batches of images (B, C, H, W) that the file is checked on.
    """

    task: Task
    dynamic: tuple[str, ...]
    notes: Mapping[str, str]
    cases: Sequence[Tensor]

    @property
    def checked(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the images that the file is checked on, including those where rounding decides."""
        return tuple(dict.fromkeys(tuple(images.shape) for images in self.cases))

    def revealing(self) -> Task | None:
        """The task with a copy of the network on which the check can fail; None if the network suffices."""
        return self.task.revealing(checking.without_zeros(self.task.network))


def prepare(model: nn.Module, options: ExportOptions) -> Export:
    """Prepares the export of a model; the model itself is not modified.

    Raises:
        ValueError: an unknown task, a task that does not fit the model, or a missing or invalid image size.
    """
    step("running the model")
    model = fold_reparametrization(copy.deepcopy(model).cpu().float().eval())
    task = task_of(model, options.task)
    made = make_task(model, task, options.image_size)
    answer = _answer(made)
    classes = answer["logits"].shape[1] if "logits" in answer else None
    notes = {**describe(model, made.input_size, classes), **made.notes(), "task": task, **(options.metadata or {})}
    return Export(made, options.dynamic, notes, checking.cases_of(made, options.dynamic))


def _answer(task: Task) -> dict[str, Tensor]:
    """The outputs of the network for images of the input size.

    Raises:
        ValueError: the network does not take them; the message names the nearest size that it takes.
    """
    _, *size = task.input_size
    try:
        return task.expected(task.to_range(checking.noise((2, *task.input_size))))
    except ValueError as error:
        near = None if "does not take images" not in str(error) else checking.nearest_size(task, (size[0], size[1]))
        if near is None:
            raise
        raise ValueError(f"{error}. The nearest size that it takes is {near[0]} {near[1]}") from error


def check_output(output: Path) -> None:
    """Creates the folder of the output, and checks that the file can be written, before any long computation.

    Raises:
        ValueError: the output is a folder, or cannot be written to.
    """
    if output.is_dir():
        raise ValueError(f"output must be a file, but {output} is a folder: add a file name, such as model.onnx")
    check_writable(output.parent, f"choose another folder for {output.name}")


def to_trace(task: Task, dynamic: Sequence[str]) -> tuple[nn.Module, Tensor]:
    """The network of a task with parallel branches and norms folded, run once, and the images to trace it with."""
    network = fuse(copy.deepcopy(task.network))
    # layers then cache real tensors, not traced ones
    run_network(network, checking.noise((2, *task.input_size)))
    return network, torch.zeros(2, *_traced_size(task, dynamic))


def _traced_size(task: Task, dynamic: Sequence[str]) -> tuple[int, int, int]:
    channels, *sides = task.input_size
    for i, axis in enumerate(("height", "width")):
        if axis in dynamic:
            # the sides differ, so that the trace does not take them to be the same
            sides[i] *= -(-_TRACED_SIDE // sides[i]) + i
    return channels, sides[0], sides[1]
