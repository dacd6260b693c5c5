"""Prediction of a detector on images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torchvision.transforms.v2 import functional

from ..predict import Say
from .files import open_detector


def open_for_prediction(directory: Path, least_score: float, device: torch.device) -> tuple[int, Say]:
    """The number of input channels, and a function from images to `labels`, `scores` and `boxes`.

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
    def say(pictures: Sequence[Image.Image]) -> list[dict[str, Any]]:
        images = [functional.to_dtype(functional.to_image(p), torch.float32, scale=True) for p in pictures]
        said = []
        for found in detector([image.to(device) for image in images]):
            kept = found["scores"] >= least_score
            said.append(
                {
                    "labels": [labels[i] for i in found["labels"][kept].tolist()],
                    "scores": found["scores"][kept].tolist(),
                    "boxes": found["boxes"][kept].tolist(),
                }
            )
        return said

    return len(config["preprocessing"]["mean"]), say
