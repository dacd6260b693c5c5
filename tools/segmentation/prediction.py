"""Prediction of a segmenter on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..flips import FlippedSegmenter
from ..predict import Predictor
from .data import Preparation
from .files import open_segmenter
from .windows import resized, segment


def open_for_prediction(directory: str, device: torch.device, *, flip: bool = False, **_: Any) -> Predictor:
    """Opens a segmenter for prediction.

    Args:
        directory: directory of the segmenter.
        device: device to run on.
        flip: average with the prediction for the mirror image.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory holds no segmenter, or a damaged one.
    """
    segmenter, config = open_segmenter(directory)
    prepare, labels = Preparation(config["preprocessing"]), config["label_names"]
    network = (FlippedSegmenter(segmenter) if flip else segmenter).to(device).eval()

    def transform(picture: Image.Image) -> tuple[Tensor, tuple[int, int]]:
        return prepare(picture), (picture.height, picture.width)

    def predict(images: Sequence[tuple[Tensor, tuple[int, int]]]) -> list[dict[str, Any]]:
        predicted = []
        answers = segment(network, [image.to(device) for image, _ in images], prepare.size)
        for logits, (_, size) in zip(answers, images, strict=True):
            mask = resized(logits, size).argmax(0).cpu()
            shares = torch.bincount(mask.flatten(), minlength=len(labels)) / mask.numel()
            order = [i for i in shares.argsort(descending=True).tolist() if shares[i] > 0]
            predicted.append(
                {
                    "labels": [labels[i] for i in order],
                    "scores": [shares[i].item() for i in order],
                    "indices": order,
                    "mask": mask.numpy(),
                }
            )
        return predicted

    return Predictor(prepare.channels, transform, predict)
