"""Opening models by name or from a directory, for export, evaluation and prediction."""

from __future__ import annotations

import difflib
import json
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import timm
import timm.data
import torch
from timm.models import split_model_name_tag
from torch import nn

from attnzoo.base import WeightsError, check_connection

from .files import check_sums, read_json, sha256, without_function
from .listing import is_ours
from .tasks import TASKS

# what to do without published weights: for the name of a model of attnzoo, of any other, and in training
_BY_HAND = (
    "Download a file by hand and convert it with `attnzoo convert` to a directory, which takes the place of the name. "
)
_FOLDERS = "The environment variables HF_HOME and TORCH_HOME set the folders of downloads"
FOR_TRAINING = (
    "Set a file with model.pretrained_cfg_overlay.file=..., or train from scratch with model.pretrained=False"
)

# said where a model has random weights
RANDOM = "note: the weights are random; use --pretrained or a trained directory"


def open_model(
    model: str, *, pretrained: bool = False, image_size: tuple[int, int] | None = None
) -> tuple[nn.Module, dict[str, str]]:
    """Opens a model by its name or from a directory in timm's layout (`config.json` and `model.safetensors`).

    Args:
        model: a model name in timm's registry, which includes attnzoo's models, a directory, or the work directory of a
            training.
        pretrained: load the published weights of a model name. The weights of a directory are always loaded.
        image_size: height and width, for models that are built for one size.

    Returns:
        The model, and metadata entries about the origin of its weights.

    Raises:
        ValueError: the name is unknown or has no published weights, the directory contains no model or a damaged one,
            or the size is below 1.
    """
    check_size(image_size)
    check_model(model)
    model = model_directory(model)
    folder = Path(model)
    if (folder / "config.json").is_file():
        return _load_folder(folder, image_size)
    config = timm.get_pretrained_cfg(model)
    if not pretrained:
        # the same command gives the same file, also with random weights
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = timm.create_model(model, **_size_argument(config.to_dict(), image_size))
        return network, {"weights": "random, seed 0"}
    if not config.has_weights:
        raise ValueError(
            f"{model} has no published weights: omit --pretrained, or pass the directory of a trained model"
        )
    try:
        network = create_pretrained(model, **_size_argument(config.to_dict(), image_size))
    except (RuntimeError, OSError) as error:
        by_hand = _BY_HAND if is_ours(split_model_name_tag(model)[0]) else ""
        raise ValueError(not_loaded(model, error, f"{by_hand}{_FOLDERS}")) from error
    used: Any = network.pretrained_cfg
    origin = {"weights": f"https://huggingface.co/{used['hf_hub_id']}" if used.get("hf_hub_id") else str(used["url"])}
    if config.license:
        origin["license"] = config.license
    subset = timm.data.infer_imagenet_subset(network)
    if subset and not config.label_names:
        info = timm.data.ImageNetInfo(subset)
        origin["labels"] = json.dumps([info.index_to_description(i) for i in range(info.num_classes())])
    return network, origin


def check_model(model: str) -> None:
    """Checks that a model is a directory in timm's layout, the work directory of a training, or a name.

    Raises:
        ValueError: it is none of these; the message has the nearest names.
    """
    folder = Path(model_directory(model))
    if (folder / "config.json").is_file() or timm.is_model(model):
        return
    if folder.is_dir():
        raise ValueError(f"{model} contains no model: expected config.json and model.safetensors")
    close = difflib.get_close_matches(model, timm.list_models(), n=3)
    hint = f"did you mean {', '.join(close)}?" if close else "see `attnzoo list`"
    raise ValueError(f"{model!r} is neither a model name nor a directory: {hint}")


def config_of_run(model: str) -> str | None:
    """Returns the training config of the run that a directory is of, or None."""
    folder = Path(model_directory(model))
    path = folder.parent / "config.py"
    return str(path) if (folder / "config.json").is_file() and path.is_file() else None


def create_pretrained(name: str, **arguments: Any) -> nn.Module:
    """Creates a model with published weights, as timm does; without a connection it fails at once.

    Args:
        name: name of a model.
        arguments: arguments of `timm.create_model`.

    Raises:
        WeightsError: no source has the weights.
        RuntimeError, OSError: they cannot be loaded for another reason.
    """
    chosen = ("pretrained_cfg", "pretrained_cfg_overlay")
    # models of attnzoo look for themselves
    if ":" not in name and not any(arguments.get(key) for key in chosen) and not is_ours(split_model_name_tag(name)[0]):
        check_connection(name, timm.get_pretrained_cfg(name), arguments.get("cache_dir"))
    return timm.create_model(name, pretrained=True, **arguments)


def not_loaded(name: str, error: Exception, instead: str) -> str:
    """Returns one line on published weights that were not loaded: why, and what to do instead."""
    # every source is named in it
    tried = error.tried if isinstance(error, WeightsError) else ""
    reason = (tried or textwrap.shorten(str(error) or type(error).__name__, 200)).rstrip(".")
    return f"the published weights of {name} cannot be loaded: {reason}. {instead}"


def is_random(model: str, pretrained: bool) -> bool:
    """Returns whether `open_model` opens a model with random weights."""
    return not pretrained and not Path(model).is_dir() and bool(timm.is_model(model))


def _load_folder(folder: Path, image_size: tuple[int, int] | None) -> tuple[nn.Module, dict[str, str]]:
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise ValueError(f"{folder} has a config.json but no model.safetensors: was the training interrupted?")
    sums = check_sums(folder)
    stored = read_config(folder)
    if (task := stored_task(str(folder))) != "classification":
        raise ValueError(
            f"{folder} is a network for {task}: this command takes classifiers; use attnzoo evaluate, predict or export"
        )
    config = stored.get("pretrained_cfg", {})
    try:
        network = timm.create_model(f"local-dir:{folder}", pretrained=True, **_size_argument(config, image_size))
    except Exception as error:
        reason = without_function(error).strip().split("\n")[0]
        raise ValueError(f"{folder} cannot be loaded, its config.json does not match its weights: {reason}") from error
    # not the path, which is private and differs between machines: the digest identifies the weights
    origin = {"weights": f"sha256:{sums.get(weights.name) or sha256(weights)}"}
    if config.get("license"):
        origin["license"] = config["license"]
    return network, origin


def _size_argument(config: Mapping[str, Any], image_size: tuple[int, int] | None) -> dict[str, Any]:
    return {"img_size": image_size} if image_size and config.get("fixed_input_size") else {}


def model_directory(model: str) -> str:
    """Returns the folder `model/` of a work directory of `attnzoo train`; any other argument is returned unchanged."""
    folder = Path(model)
    is_run = not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file()
    return str(folder / "model") if is_run else model


def stored_task(model: str) -> str:
    """Returns the task of a directory, according to its config.json: a directory of timm's, or a name, classifies."""
    folder = Path(model_directory(model))
    task = read_config(folder).get("task") if (folder / "config.json").is_file() else None
    return task if task in TASKS else "classification"


def read_config(folder: Path) -> dict[str, Any]:
    """Reads the `config.json` of a directory in timm's layout.

    Raises:
        ValueError: it is not a JSON object, or a value cannot be one of a model.
    """
    path = folder / "config.json"
    config = read_json(path)
    if not isinstance(config, dict) or not isinstance(config.get("pretrained_cfg", {}), dict):
        raise ValueError(f"{path} is not a model configuration")
    for place, values in (("", config), ("pretrained_cfg.", config.get("pretrained_cfg", {}))):
        for key in _ALLOWED.keys() & values.keys():
            is_allowed, what = _ALLOWED[key]
            if not is_allowed(values[key]):
                shown = textwrap.shorten(repr(values[key]), 60)
                raise ValueError(f"{path}: {place}{key} must be {what}, got {shown}")
    return config


def _is_number(value: Any) -> bool:
    # NaN is in no range
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= _LARGEST


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(type(n) is int and 1 <= n <= _LARGEST for n in value)


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= _LARGEST and all(map(_is_number, value))


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _are_labels(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(name, (str, int)) for name in value))


# the largest channels, height or width of an image, and mean or standard deviation
_LARGEST = 2**16

# what a value must be, by key of config.json or of pretrained_cfg in it
_ALLOWED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "input_size": (_is_size, "the channels, height and width of an image"),
    "test_input_size": (lambda value: value is None or _is_size(value), "the channels, height and width of an image"),
    "mean": (_are_numbers, "a number for each channel"),
    "std": (lambda value: _are_numbers(value) and min(value) > 0, "a positive number for each channel"),
    "crop_pct": (lambda value: _is_number(value) and value > 0, "a positive number"),
    "test_crop_pct": (lambda value: value is None or (_is_number(value) and value > 0), "a positive number"),
    "num_classes": (lambda value: type(value) is int and value >= 0, "a number of classes"),
    "interpolation": (_is_text, "text"),
    "crop_mode": (_is_text, "text"),
    "license": (_is_text, "text"),
    "label_names": (_are_labels, "a list of class names"),
}


def check_size(image_size: tuple[int, int] | None) -> None:
    """Checks that an image size is positive.

    Raises:
        ValueError: the height or width is below 1.
    """
    if image_size and min(image_size) < 1:
        raise ValueError(f"image_size must be a height and a width of at least 1, got {image_size}")
