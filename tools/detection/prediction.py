"""Prediction of a detector on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..predict import Predictor
from .data import to_tensor
from .files import open_detector


def open_for_prediction(directory: Path, least_score: float, device: torch.device) -> Predictor:
    """Opens a detector for prediction.

    Args:
        directory: directory of the detector.
        least_score: lowest score of a returned object, 0 .. 1.
        device: device to run on.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory holds no detector, or a damaged one.
    """
    detector, config = open_detector(directory)
    labels = config["label_names"]
    detector.to(device).eval()

    @torch.inference_mode()
    def detect(images: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        predicted = []
        for found in detector([image.to(device) for image in images]):
            kept = found["scores"] >= least_score
            predicted.append(
                {
                    "labels": [labels[i] for i in found["labels"][kept].tolist()],
                    "scores": found["scores"][kept].tolist(),
                    "boxes": found["boxes"][kept].tolist(),
                }
            )
        return predicted

    return Predictor(len(config["preprocessing"]["mean"]), to_tensor, detect)
