"""Metrics of a model on a data set, for validation during training and for `attnzoo evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

# called after each batch of an evaluation with a message for each file that cannot be read
AfterBatch = Callable[[list[str]], None]


# largest number of classes with a confusion matrix, which has their square of numbers
MOST_CONFUSED = 2048
# most probable classes that are kept of an image
_KEPT = 5

# by their name in `per_class`
_OF_CLASSES = {"f1": MulticlassF1Score, "precision": MulticlassPrecision, "recall": MulticlassRecall}


class JudgedImage(NamedTuple):
    """The prediction of a classifier for an image.

    Attributes:
        name: name of the image in its data set.
        label: the true class.
        score_of_truth: probability of the true class.
        classes: the most probable classes, the first is the prediction.
        scores: their probabilities.
    """

    name: str
    label: int
    score_of_truth: float
    classes: list[int]
    scores: list[float]


class ClassificationJudge:
    """Evaluates a classifier.

    Args:
        classes: number of classes.
        device: device of the model.
        is_detailed: also compute the attributes below, of the last evaluation, on one process.

    Attributes:
        per_class: `f1`, `precision`, `recall` and number of `images` of each class.
        confusion: (classes, classes), numbers of images by true and predicted class; None with too many classes.
        images: the prediction for each image.
    """

    metric = "accuracy"
    shares = ("accuracy", "top5")

    def __init__(self, classes: int, device: torch.device, is_detailed: bool = False) -> None:
        self.classes, self.device, self.is_detailed = classes, device, is_detailed
        self.per_class: list[dict[str, float]] = []
        self.confusion: Tensor | None = None
        self.images: list[JudgedImage] = []

    @torch.inference_mode()
    def __call__(self, model: nn.Module, loader: DataLoader[Any], after_batch: AfterBatch) -> dict[str, float]:
        """Returns the top-1 accuracy, the top-5 accuracy if there are more than five classes, and the mean loss.

        Args:
            model: maps images (B, C, H, W) to logits (B, classes).
            loader: batches of `images` and `labels`. Each process has a part of the data; the metrics are those of all
                data on every process.
            after_batch: called after each batch.

        Raises:
            ValueError: there are no readable images.
        """
        model.eval()
        accuracies: dict[str, Metric] = {"accuracy": MulticlassAccuracy(self.classes, average="micro")}
        if self.classes > 5:
            accuracies["top5"] = MulticlassAccuracy(self.classes, average="micro", top_k=5)
        if self.is_detailed:
            accuracies |= {name: metric(self.classes, average=None) for name, metric in _OF_CLASSES.items()}
            if self.classes <= MOST_CONFUSED:
                accuracies["confusion"] = MulticlassConfusionMatrix(self.classes)
        self.images, counts = [], torch.zeros(self.classes, dtype=torch.long)
        # compute groups merge metrics whose states are equal after the first batch, even if they differ later
        metrics = MetricCollection(accuracies, compute_groups=False).to(self.device)
        mean_loss, judged = MeanMetric().to(self.device), SumMetric().to(self.device)
        for batch in loader:
            if "images" in batch:
                images, labels = (batch[key].to(self.device, non_blocking=True) for key in ("images", "labels"))
                logits = model(images).float()
                metrics.update(logits, labels)
                mean_loss.update(nn.functional.cross_entropy(logits, labels, reduction="none"))
                judged.update(len(labels))
                if self.is_detailed:
                    counts += torch.bincount(labels.cpu(), minlength=self.classes)
                    self._note(batch["name"], labels, logits)
            after_batch(batch["unreadable"])
        if not over_all_processes(judged):
            raise ValueError("no image could be evaluated: the data is empty or unreadable")
        computed = over_all_processes(metrics)
        if self.is_detailed:
            self.confusion = computed.pop("confusion").cpu() if "confusion" in computed else None
            columns = {name: computed.pop(name).tolist() for name in _OF_CLASSES} | {"images": counts.tolist()}
            self.per_class = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        values = {name: float(value) for name, value in computed.items()}
        return {**values, "loss": float(over_all_processes(mean_loss))}

    def _note(self, names: list[str], labels: Tensor, logits: Tensor) -> None:
        probabilities = logits.softmax(1)
        true = probabilities.gather(1, labels[:, None])[:, 0]
        scores, classes = probabilities.topk(min(_KEPT, self.classes))
        rows = (labels.tolist(), true.tolist(), classes.tolist(), scores.tolist())
        self.images += [JudgedImage(*entry) for entry in zip(names, *rows, strict=True)]


def over_all_processes(metric: Metric | MetricCollection) -> Any:
    """Returns the value of a metric over the data of all processes."""
    with warnings.catch_warnings():
        # a process has no images if there are fewer images than processes
        warnings.filterwarnings("ignore", ".*compute.*before the .*update.*")
        return metric.compute()
