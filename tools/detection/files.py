"""Storage of a detector as a directory of plain data, `config.json` and `model.safetensors`.

`config.json` holds `task`, `architecture` and `model_args` (of `timm.create_model`), `detector` (of `DetectorOptions`),
`label_names` and `preprocessing` (`mean` and `std` of each channel). `SHA256SUMS` is used to detect damaged files.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from ..files import check_sums, read_json, storing, write_sums
from ..models import model_directory
from ..weights import read_file
from .detectors import Detector, DetectorOptions, create_detector

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# arguments of timm.create_model that download weights or read other files
FETCHING = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only")

_KEYS = {
    "task": str, "architecture": str, "model_args": dict, "detector": dict, "label_names": list,
    "preprocessing": dict,
}  # fmt: skip


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
    kept = {key: value for key, value in arguments.items() if key not in FETCHING}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in detector.state_dict().items()}
    with storing(directory) as fresh:
        fresh.mkdir(parents=True)
        save_file(weights, fresh / WEIGHTS)
        config = {
            "task": "detection",
            "architecture": architecture,
            "model_args": kept,
            "detector": {**dataclasses.asdict(options), "frozen_batchnorm": detector.frozen_batchnorm},
            "label_names": list(classes),
            "preprocessing": {"mean": list(mean), "std": list(std)},
        }
        try:
            text = json.dumps(config, indent=2)
        except TypeError as error:
            raise ValueError(f"model: arguments must be numbers, text or lists to be stored: {error}") from error
        (fresh / CONFIG).write_text(text + "\n")
        write_sums(fresh)


def open_detector(directory: str | Path) -> tuple[Detector, dict[str, Any]]:
    """Opens the detector of a directory in evaluation mode; returns it and its config. Runs no code from the directory.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory was not written by `attnzoo train` for detection, or is damaged.
    """
    directory = Path(model_directory(str(directory)))
    check_sums(directory)
    config = read_detector_config(directory)
    path = directory / WEIGHTS
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the directory of a detector needs {CONFIG} and {WEIGHTS}")
    weights = read_file(path)
    arguments, where = config["model_args"], directory / CONFIG
    options = DetectorOptions.from_dict(config["detector"])
    preprocessing, classes = config["preprocessing"], len(config["label_names"])

    def create() -> Detector:
        return create_detector(
            config["architecture"], arguments, options, classes, preprocessing["mean"], preprocessing["std"]
        )

    try:
        # without memory for weights, so that a config that is much larger than the file is rejected first
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in create().state_dict().items()}
    # torch raises various exceptions for impossible sizes
    except Exception as error:
        raise ValueError(f"{where} does not describe a detector: {error}") from error
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        differing = sorted(
            name for name in {*expected, *weights} if expected.get(name) != getattr(weights.get(name), "shape", None)
        )
        raise ValueError(f"{where} and {WEIGHTS} do not match: {', '.join(differing[:5])}")
    detector = create()
    detector.load_state_dict(weights)
    return detector.eval(), config


def read_detector_config(directory: Path) -> dict[str, Any]:
    """Reads and validates the `config.json` of a detector.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file was not written by `save_detector`.
    """
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: the directory of a detector needs {CONFIG} and {WEIGHTS}")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("task") != "detection":
        raise ValueError(f'{path} is not the config of a detector: task must be "detection"')
    for key, kind in _KEYS.items():
        if not isinstance(config.get(key), kind):
            raise ValueError(f"{path}: {key} must be a {kind.__name__}, got {config.get(key)!r}")
    if not timm.is_model(config["architecture"]):
        raise ValueError(f"{path}: {config['architecture']!r} is not a model of timm or attnzoo")
    if fetching := [key for key in FETCHING if key in config["model_args"]]:
        raise ValueError(f"{path}: model_args must not contain {fetching[0]}: the weights are in {WEIGHTS}")
    if not config["label_names"] or not all(isinstance(name, str) for name in config["label_names"]):
        raise ValueError(f"{path}: label_names must be the names of the classes, got {config['label_names']!r}")
    for key in ("mean", "std"):
        values = config["preprocessing"].get(key)
        is_list = isinstance(values, list) and len(values) in (1, 3)
        if not is_list or not all(isinstance(x, (int, float)) for x in values):
            raise ValueError(f"{path}: preprocessing.{key} must be a number for each channel, got {values!r}")
    DetectorOptions.from_dict(config["detector"])
    return config
