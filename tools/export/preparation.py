"""What every export begins with: arguments, a task, what the file is to say, what it is checked on, what is traced."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attnzoo.blocks import fuse

from ..files import check_writable
from . import checking
from .options import ExportOptions
from .tasks import Task, describe, make_task, run_network, task_of

# a dynamic side is traced at this many pixels at least: then no map is so small that it is taken for a special case
_TRACED_SIDE = 600


@dataclass(frozen=True)
class Export:
    """What is to become a file.

    Attributes:
        task: what the file is for, with the network.
        dynamic: the dynamic axes, of "batch", "height" and "width".
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


def prepare(model: nn.Module, options: ExportOptions) -> Export:
    """Makes of a model what is exported; the model itself stays as it is.

    Raises:
        ValueError: an unknown task, or one that the model is not for; an unknown or impossible image size.
    """
    model = copy.deepcopy(model).cpu().float().eval()
    task = task_of(model, options.task)
    made = make_task(model, task, options.image_size)
    answer = _answer(made)
    classes = answer["logits"].shape[1] if task == "classify" else None
    notes = {**describe(model, made.input_size, classes), **made.notes(), "task": task, **(options.metadata or {})}
    return Export(made, options.dynamic, notes, checking.cases_of(made, options.dynamic))


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
