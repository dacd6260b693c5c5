"""Metrics of a model on a data set, for validation during training and for `attnzoo evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy

# called after each batch of an evaluation with a message for each file that cannot be read
AfterBatch = Callable[[list[str]], None]


class ClassificationJudge:
    """Evaluates a classifier.

    Args:
        classes: number of classes.
        device: device of the model.
    """

    metric = "accuracy"
    shares = ("accuracy", "top5")

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes, self.device = classes, device
        # accuracy of each class in the last evaluation
        self.per_class: list[float] = []

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
        accuracies = {"accuracy": MulticlassAccuracy(self.classes, average="micro")}
        if self.classes > 5:
            accuracies["top5"] = MulticlassAccuracy(self.classes, average="micro", top_k=5)
        accuracies["per_class"] = MulticlassAccuracy(self.classes, average=None)
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
            after_batch(batch["unreadable"])
        if not _over_all_processes(judged):
            raise ValueError("no image could be evaluated: the data is empty or unreadable")
        computed = _over_all_processes(metrics)
        self.per_class = computed.pop("per_class").tolist()
        values = {name: float(value) for name, value in computed.items()}
        return {**values, "loss": float(_over_all_processes(mean_loss))}


def _over_all_processes(metric: Metric | MetricCollection) -> Any:
    with warnings.catch_warnings():
        # a process has no images if there are fewer images than processes
        warnings.filterwarnings("ignore", ".*compute.*before the .*update.*")
        return metric.compute()
