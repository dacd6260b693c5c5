"""Evaluation of a detector on held-out images with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..devices import describe_device
from ..evaluate import Evaluation, Reading
from ..flips import FlippedDetector
from ..training.processes import Processes
from ..training.setup import OF_MODEL, check_classes
from .data import open_detection
from .drawing import draw_worst_cases
from .files import open_detector
from .metrics import DetectionJudge
from .options import DetectorOptions


def evaluate_detector(
    directory: str,
    data: Mapping[str, Any],
    reading: Reading,
    device: torch.device,
    *,
    pretrained: bool = False,
    worst: Path | None = None,
) -> Evaluation:
    """Evaluates a detector on a data set, see `attnzoo.tools.evaluate.evaluate`.

    Args:
        directory: directory of the detector.
        data: the `data` of a recipe.
        reading: how images are read.
        device: device to run on.
        pretrained: has no effect, a directory has its weights.
        worst: folder for the images with the most errors; None to write none.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: the directory holds no detector, the data set is unknown or has other classes, or a file cannot be
            read.
    """
    detector, config = open_detector(directory)
    with_masks = config["detector"]["head"] == "mask_rcnn"
    samples = open_detection(data, reading.split, None, len(config["preprocessing"]["mean"]), with_masks)
    check_classes({"the model": config["label_names"], "the data": samples.classes}, OF_MODEL)
    judge = DetectionJudge(samples.classes, Processes(0, 1, device), with_masks)
    network = FlippedDetector(detector) if reading.flip else detector
    metrics, unreadable = reading.judge(judge, network.to(device), samples)
    if worst is not None:
        draw_worst_cases(judge.report, samples, worst)
    per_class = {row["class"]: {key: row[key] for key in ("AP", "AP50", "objects")} for row in judge.report.per_class}
    resizing = DetectorOptions.from_dict(config["detector"]).describe_resizing()
    prepared, said = {"resized to": resizing, **config["preprocessing"]}, describe_device(device)
    return Evaluation(metrics, per_class, judge.shares, unreadable, prepared, said, samples.remarks)
