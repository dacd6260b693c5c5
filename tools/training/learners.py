"""A timm classifier with its loss, as an mmengine model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from timm.data import Mixup
from timm.data.mixup import mixup_target
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
        logits = self._logits(images)
        if isinstance(logits, tuple):
            main, auxiliary = logits
            return {"loss": self.loss(main, labels) + self.aux_loss_weight * self.loss(auxiliary, labels)}
        return {"loss": self.loss(logits, labels)}

    def _logits(self, images: Tensor) -> Any:
        try:
            return self.model(images)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            height, width = images.shape[-2:]
            raise ValueError(
                f"a batch norm of the model has one value per channel for {len(images)} image of {height} x {width} "
                "pixels, and needs two: batch_size must give each process and each of its `accumulate` parts at least "
                "two images, or data.input_size must be larger"
            ) from error


class AnyMixup(Mixup):
    """timm's Mixup also for an odd number of images, of which the last one is not mixed. Such a batch occurs if there
    are fewer training images than `batch_size`.
    """

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes images (B, C, H, W) and labels (B,) -> (B, C, H, W) and (B, classes)."""
        if len(x) % 2 == 0:
            return super().__call__(x, target)
        rest = x[-1:], mixup_target(target[-1:], self.num_classes, 1.0, self.label_smoothing)
        if len(x) == 1:
            return rest
        mixed = super().__call__(x[:-1], target[:-1])
        return torch.cat([mixed[0], rest[0]]), torch.cat([mixed[1], rest[1]])


def classifier_of(model: nn.Module) -> nn.Module:
    """Returns the classifier of a timm model; several classifiers (distilled models) as a list."""
    classifier: Any = model.get_classifier()  # type: ignore[operator]
    return nn.ModuleList(classifier) if isinstance(classifier, (tuple, list)) else classifier


def class_weights(given: Any, classes: int, counts: Sequence[int] | None) -> Tensor | None:
    """Returns the weight of each class in the loss, float32 (classes,); None without weights.

    Args:
        given: `loss.weight` of a recipe: "balanced" for weights that are inversely proportional to the number of
            training images or pixels of a class, with a mean of 1 over all of them; or a list with a number for each
            class.
        classes: number of classes.
        counts: number of training images or pixels of each class; None if they are not known before images are read.

    Raises:
        ValueError: the weights are neither, or do not fit the data.
    """
    if given is None:
        return None
    if given == "balanced":
        if counts is None:
            raise ValueError(
                'loss.weight="balanced" needs the labels of all images, which shards do not list: set loss.weight to a '
                f"list of {classes} numbers"
            )
        total, present = sum(counts), sum(count > 0 for count in counts)
        # a class without images has no weight
        return torch.tensor([total / (present * count) if count else 0.0 for count in counts])
    is_list = isinstance(given, (list, tuple)) and all(
        isinstance(x, (int, float)) and not isinstance(x, bool) and math.isfinite(x) and x >= 0 for x in given
    )
    if not is_list or len(given) != classes or not any(given):
        raise ValueError(
            f'loss.weight must be "balanced" or a list of {classes} numbers, one of at least 0 for each class, got '
            f"{given!r}"
        )
    return torch.tensor(given, dtype=torch.float32)


def create_loss(options: dict[str, Any], is_mixed: bool, weight: Tensor | None = None) -> nn.Module:
    """Creates the loss of a recipe.

    Args:
        options: `name`, one of LOSSES ("cross_entropy" by default), `label_smoothing`, `weight` (see `class_weights`),
            and arguments of timm's BinaryCrossEntropy.
        is_mixed: labels come from mixup, which smooths them: (B, classes).
        weight: weight of each class (classes,).

    Raises:
        ValueError: an unknown loss or option.
    """
    settings = {key: value for key, value in options.items() if key != "weight" and value is not None}
    name, smoothing = settings.pop("name", "cross_entropy"), settings.pop("label_smoothing", 0.0)
    if name not in LOSSES:
        raise ValueError(f"loss.name must be one of {', '.join(LOSSES)}, got {name!r}")
    if name == "bce":
        smoothing = 0.0 if is_mixed else smoothing
        return blaming("loss", BinaryCrossEntropy, smoothing=smoothing, weight=weight, **settings)
    if settings:
        raise ValueError(f"loss: cross_entropy takes label_smoothing and weight only, got {', '.join(settings)}")
    if weight is not None:
        return nn.CrossEntropyLoss(weight, label_smoothing=0.0 if is_mixed else smoothing)
    if is_mixed:
        return SoftTargetCrossEntropy()
    return LabelSmoothingCrossEntropy(smoothing) if smoothing else nn.CrossEntropyLoss()


def create_mixup(options: dict[str, Any], smoothing: float, classes: int) -> Mixup | None:
    """Creates the mixup of a recipe; None if there are no options.

    Args:
        options: arguments of `timm.data.Mixup`.
        smoothing: label smoothing.
        classes: number of classes.

    Raises:
        ValueError: an unknown option.
    """
    if not options:
        return None
    mixup = blaming("mixup", AnyMixup, label_smoothing=smoothing, num_classes=classes, **options)
    if not (mixup.mixup_alpha or mixup.cutmix_alpha or mixup.cutmix_minmax):
        raise ValueError("mixup: mixup_alpha or cutmix_alpha must be positive; mixup=None for no mixup")
    return mixup
