"""What training needs of classification or detection; the loop, the checkpoints and the curves are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from mmengine.model import BaseModel
from torch import nn
from torch.utils.data import DataLoader

from ..data import Samples, StreamedImages
from ..metrics import AfterBatch


class Judge(Protocol):
    """Gives a model its metrics over a data set."""

    @property
    def metric(self) -> str:
        """The one that decides which epoch is best; more is better."""

    @property
    def shares(self) -> Sequence[str]:
        """Metrics that read best in percent."""

    def __call__(self, model: nn.Module, loader: DataLoader[Any], after_batch: AfterBatch) -> dict[str, float]:
        """The metrics by name; `after_batch` is called after each batch with what was unreadable in it."""


@dataclass(frozen=True)
class Setup:
    """What a recipe asks for, ready to be trained.

    Attributes:
        learner: takes a batch to its losses.
        network: the part of it that is wanted in the end; its weights are stored and averaged.
        train_set: samples to learn from.
        val_set: samples to judge by.
        judge: gives the metrics.
        save: writes a network as a directory.
        facts: lines of the summary that is shown before training, by title.
    """

    learner: BaseModel
    network: nn.Module
    train_set: Samples | StreamedImages
    val_set: Samples | StreamedImages
    judge: Judge
    save: Callable[[nn.Module, Path], None]
    facts: Mapping[str, str]


def describe_data(train_set: Samples | StreamedImages, val_set: Samples | StreamedImages, name: str) -> str:
    """A line about the data."""
    return f"{name}, {len(train_set)} images to train, {len(val_set)} held out, {len(train_set.classes)} classes"
