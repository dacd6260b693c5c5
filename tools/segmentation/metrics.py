"""Metrics of a segmenter over a data set, the same in training and in `attnzoo evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from ..metrics import AfterBatch, over_all_processes
from .sources import IGNORED
from .windows import resized, segment


class SegmentationJudge:
    """Mean intersection over union of a segmenter, in the pixels of the files.

    Args:
        classes: number of classes.
        size: height and width of the network's input.
        device: device of the model.

    Attributes:
        per_class: intersection over union of each class in the last evaluation; NaN for a class without pixels.
        accuracies: share of the pixels of each class that are found; NaN for a class without pixels.
        wrong: share of wrong pixels of each image that this process has judged, by name.
    """

    metric = "mIoU"
    shares = ("mIoU", "accuracy", "mean_accuracy")

    def __init__(self, classes: int, size: Sequence[int], device: torch.device) -> None:
        self.classes, self.size, self.device = classes, size, device
        self.per_class: list[float] = []
        self.accuracies: list[float] = []
        self.wrong: dict[str, float] = {}

    @torch.inference_mode()
    def __call__(self, model: nn.Module, loader: DataLoader[Any], after_batch: AfterBatch) -> dict[str, float]:
        """The mean IoU, the accuracy over all pixels and over classes, and the mean loss of a pixel (cross entropy).

        Classes that neither the data nor a prediction has are left out of the means.

        Args:
            model: maps images (B, C, H, W) of the input size to logits (B, classes, H, W).
            loader: batches of lists of `images` (C, H, W), `labels` (H, W) in the size of the files, and `name`. Each
                process has a part of the data; the metrics are those of all data on every process.
            after_batch: called after each batch.

        Raises:
            ValueError: there are no pixels to evaluate on.
        """
        model.eval()
        confusion = MulticlassConfusionMatrix(self.classes, ignore_index=IGNORED).to(self.device)
        mean_loss = MeanMetric().to(self.device)
        self.wrong = {}
        for batch in loader:
            if "images" in batch:
                images = [image.to(self.device, non_blocking=True) for image in batch["images"]]
                for name, logits, label in zip(
                    batch["name"], segment(model, images, self.size), batch["labels"], strict=True
                ):
                    self._add(confusion, mean_loss, name, logits, label.to(self.device, non_blocking=True))
            after_batch(batch["unreadable"])
        counts: Tensor = over_all_processes(confusion).double()
        if not counts.sum():
            raise ValueError("there is no pixel to evaluate on: the data is empty, unreadable, or ignored everywhere")
        # rows are the labels, columns the predictions; 0 / 0 is NaN
        hits, labelled, found = counts.diag(), counts.sum(1), counts.sum(0)
        self.per_class = (hits / (labelled + found - hits)).tolist()
        self.accuracies = (hits / labelled).tolist()
        return {
            "mIoU": torch.tensor(self.per_class).nanmean().item(),
            "accuracy": (hits.sum() / counts.sum()).item(),
            "mean_accuracy": torch.tensor(self.accuracies).nanmean().item(),
            "loss": float(over_all_processes(mean_loss)),
        }

    def _add(
        self, confusion: MulticlassConfusionMatrix, mean_loss: MeanMetric, name: str, logits: Tensor, label: Tensor
    ) -> None:
        logits = resized(logits, label.shape)
        found, is_judged = logits.argmax(0), label != IGNORED
        count = int(is_judged.sum())
        if not count:
            return
        confusion.update(found[None], label[None])
        self.wrong[name] = float((found != label)[is_judged].sum()) / count
        loss = F.cross_entropy(logits[None], label[None], ignore_index=IGNORED)
        mean_loss.update(loss, weight=count)
