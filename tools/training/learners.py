"""A timm classifier with its loss, as an mmengine model."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from timm.data import Mixup
from timm.loss import BinaryCrossEntropy, LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from .optimization import blaming

LOSSES = ("cross_entropy", "bce")


class Classifier(BaseModel):
    """A timm model and its loss.

    Args:
        model: maps images (B, C, H, W) to logits (B, classes); in training it may return a tuple of the logits and
            those of an auxiliary head.
        loss: maps logits and labels, (B,) or (B, classes) with mixup, to a scalar.
        mixup: mixes the images and labels of a batch; None for no mixing.
        aux_loss_weight: weight of the auxiliary head's loss; the main loss has weight 1.
        channels_last: use the channels-last memory format for images.
        frozen: keep everything but the classifier in evaluation mode.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: nn.Module,
        mixup: Mixup | None = None,
        aux_loss_weight: float = 0.4,
        channels_last: bool = False,
        frozen: bool = False,
    ) -> None:
        super().__init__(BaseDataPreprocessor(non_blocking=True))
        self.model, self.loss, self.mixup, self.aux_loss_weight = model, loss, mixup, aux_loss_weight
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.frozen = frozen

    def train(self, mode: bool = True) -> Classifier:
        """Sets the mode; a frozen backbone stays in evaluation mode, without batch statistics and drop path."""
        super().train(mode)
        if mode and self.frozen:
            self.model.eval()
            classifier_of(self.model).train()
        return self

    def forward(self, images: Tensor, labels: Tensor | None = None, mode: str = "tensor") -> Any:
        """Returns the loss for mode "loss", the logits otherwise."""
        images = images.contiguous(memory_format=self.memory_format)
        if mode != "loss":
            return self.model(images)
        if self.mixup is not None:
            images, labels = self.mixup(images, labels)
        logits = self.model(images)
        if isinstance(logits, tuple):
            main, auxiliary = logits
            return {"loss": self.loss(main, labels) + self.aux_loss_weight * self.loss(auxiliary, labels)}
        return {"loss": self.loss(logits, labels)}


def classifier_of(model: nn.Module) -> nn.Module:
    """Returns the classifier of a timm model; several classifiers (distilled models) as a list."""
    classifier: Any = model.get_classifier()  # type: ignore[operator]
    return nn.ModuleList(classifier) if isinstance(classifier, (tuple, list)) else classifier


def create_loss(options: dict[str, Any], is_mixed: bool) -> nn.Module:
    """Creates the loss of a recipe.

    Args:
        options: `name`, one of LOSSES ("cross_entropy" by default), `label_smoothing`, and arguments of timm's
            BinaryCrossEntropy.
        is_mixed: labels come from mixup, which smooths them: (B, classes).

    Raises:
        ValueError: an unknown loss or option.
    """
    settings = dict(options)
    name, smoothing = settings.pop("name", "cross_entropy"), settings.pop("label_smoothing", 0.0)
    if name not in LOSSES:
        raise ValueError(f"loss.name must be one of {', '.join(LOSSES)}, got {name!r}")
    if not isinstance(smoothing, (int, float)) or not 0 <= smoothing < 1:
        raise ValueError(f"loss.label_smoothing must be at least 0 and less than 1, got {smoothing!r}")
    if name == "bce":
        return blaming("loss", BinaryCrossEntropy, smoothing=0.0 if is_mixed else smoothing, **settings)
    if settings:
        raise ValueError(f"loss: cross_entropy takes label_smoothing only, got {', '.join(settings)}")
    if is_mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing) if smoothing else nn.CrossEntropyLoss()


def create_mixup(options: dict[str, Any], smoothing: float, classes: int, batch_size: int) -> Mixup | None:
    """Creates the mixup of a recipe; None if there are no options.

    Args:
        options: arguments of `timm.data.Mixup`.
        smoothing: label smoothing.
        classes: number of classes.
        batch_size: images per batch and process.

    Raises:
        ValueError: an unknown option, or an odd batch size.
    """
    if not options:
        return None
    if batch_size % 2:
        raise ValueError(
            f"mixup pairs the images of a batch: the batch size per process must be even, got {batch_size}"
        )
    return blaming("mixup", Mixup, label_smoothing=smoothing, num_classes=classes, **options)
