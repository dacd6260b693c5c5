"""How good a model is: the metrics of a task over a data set, the same in training and in `attnzoo evaluate`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric, Metric, MetricCollection, SumMetric
from torchmetrics.classification import MulticlassAccuracy

# a hook of evaluation: called after each batch with what was unreadable in it
AfterBatch = Callable[[list[str]], None]


class ClassificationJudge:
    """Accuracy of a classifier.

    Args:
        classes: their number.
        device: that the model is on.
    """

    metric = "accuracy"
    shares = ("accuracy", "top5")

    def __init__(self, classes: int, device: torch.device) -> None:
        self.classes, self.device = classes, device
        # share of each class that was recognised, of the data set judged last
        self.per_class: list[float] = []

    @torch.inference_mode()
    def __call__(self, model: nn.Module, loader: DataLoader[Any], after_batch: AfterBatch) -> dict[str, float]:
        """The share of pictures whose class is first, or among the first five where there are more; the mean loss.

        Args:
            model: images (B, C, H, W) to logits (B, classes).
            loader: batches of `images` and `labels`; every process has its part, and all get the same answer.
            after_batch: called after each batch.

        Raises:
            ValueError: there is no picture to judge by.
        """
        model.eval()
        accuracies = {"accuracy": MulticlassAccuracy(self.classes, average="micro")}
        if self.classes > 5:
            accuracies["top5"] = MulticlassAccuracy(self.classes, average="micro", top_k=5)
        accuracies["per_class"] = MulticlassAccuracy(self.classes, average=None)
        # grouped by what they counted in the first batch, metrics that agree there would agree for ever
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
            raise ValueError("there is no picture to judge by: the validation data is empty or unreadable")
        computed = _over_all_processes(metrics)
        self.per_class = computed.pop("per_class").tolist()
        values = {name: float(value) for name, value in computed.items()}
        return {**values, "val_loss": float(_over_all_processes(mean_loss))}


def _over_all_processes(metric: Metric | MetricCollection) -> Any:
    with warnings.catch_warnings():
        # a process may have no picture where there are fewer than processes
        warnings.filterwarnings("ignore", ".*compute.*before the .*update.*")
        return metric.compute()
