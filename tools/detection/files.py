"""Storage of a detector, see `attnzoo.tools.stored`; `detector` in its config holds the fields of `DetectorOptions`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..stored import open_network, save_network
from .detectors import Detector, create_detector
from .options import DetectorOptions


def save_detector(
    detector: Detector,
    directory: Path,
    architecture: str,
    arguments: Mapping[str, Any],
    options: DetectorOptions,
    classes: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Writes a detector as a directory; an existing directory is replaced as a whole.

    Args:
        detector: created by `create_detector` with the following arguments.
        directory: directory to write.
        architecture: name of a timm model.
        arguments: arguments of `timm.create_model`; those that download weights are not stored.
        options: options of the head and the pyramid.
        classes: names of the labels.
        mean: mean of each channel.
        std: standard deviation of each channel.

    Raises:
        StorageError: the directory cannot be written; an existing one stays as it was.
        ValueError: an argument is not plain data.
    """
    stored = {**dataclasses.asdict(options), "frozen_batchnorm": detector.frozen_batchnorm}
    preprocessing = {"mean": list(mean), "std": list(std)}
    save_network(detector, directory, "detection", architecture, arguments, classes, preprocessing, detector=stored)


def open_detector(directory: str | Path) -> tuple[Detector, dict[str, Any]]:
    """Opens the detector of a directory in evaluation mode, with its config, see `open_network`.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory was not written by `attnzoo train` for detection, or is damaged.
    """
    return open_network(directory, "detection", "detector", _create)


def _create(config: Mapping[str, Any]) -> Detector:
    options, preprocessing = DetectorOptions.from_dict(config["detector"]), config["preprocessing"]
    classes = len(config["label_names"])
    return create_detector(
        config["architecture"], config["model_args"], options, classes, preprocessing["mean"], preprocessing["std"]
    )
