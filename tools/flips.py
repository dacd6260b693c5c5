"""Test-time flips: a model on images and on their mirror images, together."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class FlippedClassifier(nn.Module):
    """The mean of the probabilities of a classifier for an image and for its mirror image.

    Args:
        model: maps images (B, C, H, W) to logits (B, classes).
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes), logarithms of the mean probabilities."""
        pair = (self.model(x).float().log_softmax(1) for x in (images, images.flip(-1)))
        return torch.logaddexp(*pair) - math.log(2)


class FlippedSegmenter(nn.Module):
    """The mean of a segmenter's logits for images and for their mirror images.

    Args:
        network: maps images (B, C, H, W) to logits (B, K, H, W).
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K, H, W)."""
        mirrored: Tensor = self.network(images.flip(-1)).flip(-1)
        return (self.network(images) + mirrored) / 2


class FlippedDetector(nn.Module):
    """The objects that a detector finds in an image or in its mirror image; of those that overlap, the best.

    Args:
        detector: maps a list of images (C, H, W) to `boxes` (N, 4), `labels` (N), `scores` (N) and, with masks,
            `masks` (N, 1, H, W) of each.
        overlap: intersection over union from which two objects of a class are the same one.
    """

    def __init__(self, detector: nn.Module, overlap: float = 0.5) -> None:
        super().__init__()
        self.detector, self.overlap = detector, overlap

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Returns the objects of each image, the highest score first."""
        both = zip(images, self.detector(images), self.detector([x.flip(-1) for x in images]), strict=True)
        return [self._merged(found, _mirrored(mirrored, image.shape[-1])) for image, found, mirrored in both]

    def _merged(self, found: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
        from torchvision.ops import batched_nms

        together = {key: torch.cat([value, others[key]]) for key, value in found.items()}
        kept = batched_nms(together["boxes"], together["scores"], together["labels"], self.overlap)
        return {key: value[kept] for key, value in together.items()}


def _mirrored(found: dict[str, Tensor], width: int) -> dict[str, Tensor]:
    left, top, right, bottom = found["boxes"].unbind(1)
    mirrored = {**found, "boxes": torch.stack([width - right, top, width - left, bottom], 1)}
    if "masks" in found:
        mirrored["masks"] = found["masks"].flip(-1)
    return mirrored
