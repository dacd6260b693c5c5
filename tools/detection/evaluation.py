"""Evaluation of a detector on held-out images with boxes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluate import Evaluation, Reading, device
from ..training.processes import Processes
from .data import open_detection
from .drawing import draw_worst_cases
from .files import open_detector
from .metrics import DetectionJudge


def evaluate_detector(directory: Path, data: Mapping[str, Any], reading: Reading, worst: Path | None) -> Evaluation:
    """Evaluates a detector on a data set, see `attnzoo.tools.evaluate.evaluate`.

    Args:
        directory: directory of the detector.
        data: the `data` of a recipe.
        reading: how images are read.
        worst: folder for the images with the most errors; None to write none.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: the directory holds no detector, the data set is unknown or has other classes, or a file cannot be
            read.
    """
    detector, config = open_detector(directory)
    with_masks = config["detector"]["head"] == "mask_rcnn"
    samples = open_detection(data, reading.split, None, len(config["preprocessing"]["mean"]), with_masks)
    if list(samples.classes) != config["label_names"]:
        differing = sorted(set(samples.classes) ^ set(config["label_names"])) or ["their order"]
        raise ValueError(f"the classes of the detector and of the data differ: {', '.join(differing[:8])}")
    judge = DetectionJudge(samples.classes, Processes(0, 1, device()), with_masks)
    metrics, unreadable = reading.judge(judge, detector.to(device()), samples)
    if worst is not None:
        draw_worst_cases(judge.report, samples, worst)
    per_class = {row["class"]: row["AP"] for row in judge.report.per_class}
    sizes = {key: config["detector"][key] for key in ("min_size", "max_size")}
    prepared = {**sizes, **config["preprocessing"]}
    return Evaluation(metrics, per_class, judge.shares, unreadable, prepared, samples.remarks)
