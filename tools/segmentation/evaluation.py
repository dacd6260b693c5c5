"""Evaluation of a segmenter on images with masks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..devices import describe_device
from ..evaluate import Evaluation, Reading
from ..flips import FlippedSegmenter
from ..training.setup import OF_MODEL, check_classes
from .data import open_segmentation
from .drawing import draw_worst_cases
from .files import open_segmenter
from .metrics import SegmentationJudge


def evaluate_segmenter(
    directory: str,
    data: Mapping[str, Any],
    reading: Reading,
    device: torch.device,
    *,
    pretrained: bool = False,
    worst: Path | None = None,
) -> Evaluation:
    """Evaluates a segmenter on a data set, see `attnzoo.tools.evaluate.evaluate`.

    Args:
        directory: directory of the segmenter.
        data: the `data` of a recipe.
        reading: how images are read.
        device: device to run on.
        pretrained: has no effect, a directory has its weights.
        worst: folder for the images with the largest share of wrong pixels; None to write none.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: the directory holds no segmenter, the data set is unknown or has other classes, or a file cannot be
            read.
    """
    segmenter, config = open_segmenter(directory)
    samples = open_segmentation({**config["preprocessing"], **data}, reading.split)
    check_classes({"the model": config["label_names"], "the data": samples.classes}, OF_MODEL)
    prepared = samples.prepare.stored
    judge = SegmentationJudge(len(samples.classes), prepared["input_size"][1:], device)
    network = (FlippedSegmenter(segmenter) if reading.flip else segmenter).to(device)
    metrics, unreadable = reading.judge(judge, network, samples)
    if worst is not None:
        draw_worst_cases(network, judge.wrong, samples, worst)
    rows = zip(judge.per_class, judge.accuracies, strict=True)
    per_class = {
        name: {"IoU": share, "accuracy": found} for name, (share, found) in zip(samples.classes, rows, strict=True)
    }
    title = {"train": "training", "val": "validation"}.get(reading.split, reading.split)
    remarks = "; ".join(filter(None, (samples.remarks, samples.ignored(title))))
    return Evaluation(metrics, per_class, judge.shares, unreadable, prepared, describe_device(device), remarks)
