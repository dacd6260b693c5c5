"""The interface between a task, such as classification, and the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from ..data import Samples, StreamedImages
from ..files import listed, plural
from ..metrics import AfterBatch


class Judge(Protocol):
    """Computes the metrics of a model on a data set."""

    @property
    def metric(self) -> str:
        """The metric that determines the best epoch; higher is better."""

    @property
    def shares(self) -> Sequence[str]:
        """Names of the metrics that are shown in percent."""

    def __call__(self, model: nn.Module, loader: DataLoader[Any], after_batch: AfterBatch) -> dict[str, float]:
        """Returns metrics by name; `after_batch` is called after each batch with its messages on unreadable files."""


@dataclass(frozen=True)
class Setup:
    """Model, data and metrics of a task.

    Attributes:
        learner: maps a batch to its losses.
        network: the part of the learner whose weights are averaged and stored.
        train_set: training data.
        val_set: validation data.
        judge: computes the metrics.
        save: writes a network to a directory.
        facts: lines of the summary that is printed before training, by title.
    """

    learner: BaseModel
    network: nn.Module
    train_set: Samples | StreamedImages
    val_set: Samples | StreamedImages
    judge: Judge
    save: Callable[[nn.Module, Path], None]
    facts: Mapping[str, str]


# what to do if those of a model and of data differ, or those of training and validation data
OF_MODEL = "Set data.* to what the model was trained with"
OF_SPLITS = "If this is intended, list the classes with data.class_map"


def check_classes(sides: Mapping[str, Sequence[str]], hint: str = "") -> None:
    """Checks that two sides have the same classes in the same order.

    Args:
        sides: the classes by what has them, such as "the model" and "the data".
        hint: what to do if they differ.

    Raises:
        ValueError: they differ, or their order.
    """
    (one, first), (other, second) = sides.items()
    if list(first) == list(second):
        return
    differing = [(one, set(first) - set(second)), (other, set(second) - set(first))]
    only = [f"{listed(sorted(names), 8)} only in {what}" for what, names in differing if names]
    said = f"the classes of {one} and {other} differ: {'; '.join(only) or 'their order'}"
    raise ValueError(f"{said}. {hint}" if hint else said)


def describe_data(train_set: Samples | StreamedImages, val_set: Samples | StreamedImages, name: str) -> str:
    """Describes the data in one line, with what was skipped."""
    sizes = f"{len(train_set)} training and {len(val_set)} validation images, {plural(len(train_set.classes), 'class')}"
    remarks = (f"; {split}: {x.remarks}" for split, x in (("train", train_set), ("val", val_set)) if x.remarks)
    return f"{name}, {sizes}{''.join(remarks)}"
