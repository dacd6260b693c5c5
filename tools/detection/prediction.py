"""Prediction of a detector on images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..flips import FlippedDetector
from ..predict import Predictor
from .data import to_tensor
from .files import open_detector


def open_for_prediction(
    directory: str, device: torch.device, *, least_score: float, flip: bool = False, **_: Any
) -> Predictor:
    """Opens a detector for prediction.

    Args:
        directory: directory of the detector.
        device: device to run on.
        least_score: lowest score of a returned object, 0 .. 1.
        flip: add what is found in the mirror image.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory holds no detector, or a damaged one.
    """
    detector, config = open_detector(directory)
    labels = config["label_names"]
    network = (FlippedDetector(detector) if flip else detector).to(device).eval()

    @torch.inference_mode()
    def detect(images: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        predicted = []
        for found in network([image.to(device) for image in images]):
            left, top, right, bottom = found["boxes"].unbind(1)
            # a barely trained detector also returns boxes without an area
            kept = (found["scores"] >= least_score) & (left < right) & (top < bottom)
            predicted.append(
                {
                    "labels": [labels[i] for i in found["labels"][kept].tolist()],
                    "indices": found["labels"][kept].tolist(),
                    "scores": found["scores"][kept].tolist(),
                    "boxes": found["boxes"][kept].tolist(),
                }
            )
        return predicted

    return Predictor(len(config["preprocessing"]["mean"]), to_tensor, detect)
