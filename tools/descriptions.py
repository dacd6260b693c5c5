"""What the config.json beside weights says of them: the network, its preprocessing and the names of its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

import timm

from .data.transforms import PREPROCESSING
from .files import check_sums, read_json, without_function
from .listing import is_ours
from .models import read_config, stored_task


def described(path: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the folder of the config.json that belongs to a directory, and its content, or an empty dictionary.

    The preprocessing of transformers is added under `pretrained_cfg`, as in timm's config.json.

    Raises:
        ValueError: it is damaged, not one of a classifier, or has values that cannot be those of a model.
    """
    folders = (path, path / "model") if path.is_dir() else (path.parent,) if path.name.endswith(".json") else ()
    folder = next((folder for folder in folders if (folder / "config.json").is_file()), None)
    if folder is None:
        return path, {}
    config = read_json(folder / "config.json")
    if not isinstance(config, dict):
        return folder, {}
    if "architecture" not in config:
        return folder, {**config, "pretrained_cfg": _preprocessing_of_transformers(folder)}
    if (task := stored_task(str(folder))) != "classification":
        raise ValueError(f"{folder} is a network for {task}: this command takes classifiers")
    check_sums(folder)
    return folder, read_config(folder)


def _preprocessing_of_transformers(folder: Path) -> dict[str, Any]:
    """Returns mean and standard deviation in the preprocessor_config.json of transformers; sizes and crops differ."""
    path = folder / "preprocessor_config.json"
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, dict) or values.get("do_normalize") is False:
        return {"mean": [0.0] * 3, "std": [1.0] * 3} if isinstance(values, dict) else {}
    mean, std = values.get("image_mean"), values.get("image_std")
    return {"mean": mean, "std": std} if _are_channels(mean) and _are_channels(std) and min(std) > 0 else {}


def _are_channels(numbers: Any) -> TypeGuard[list[float]]:
    is_list = isinstance(numbers, list) and len(numbers) == 3
    return is_list and all(type(number) in (int, float) and 0 <= number <= 1 for number in numbers)


def named(config: Mapping[str, Any], path: Path) -> str:
    """Returns the model of attnzoo that a config.json is of; a network of timm is that of ours which takes its place.

    Args:
        config: content of the config.json; empty if there is none.
        path: its folder, or the file of weights that has none.

    Raises:
        ValueError: it does not say so, or says another network of timm.
    """
    name = config.get("architecture")
    if isinstance(name, str) and is_ours(name):
        return name
    if isinstance(name, str) and is_ours(f"zoo_{name}"):
        return f"zoo_{name}"
    if isinstance(name, str) and timm.is_model(name):
        opened = f'timm.create_model("local-dir:{path}", pretrained=True)'
        raise ValueError(f"{name} is a model of timm, not of attnzoo: {opened} opens it as it is")
    if path.is_file() and "architecture" in described(path.parent)[1]:
        raise ValueError(f"{path} does not say which model it holds, but {path.parent} does: pass this directory")
    raise ValueError(f"{path} does not say which model of attnzoo it holds: pass --model NAME, see `attnzoo list`")


def network_of(model: str, name: str, folder: Path, config: Mapping[str, Any]) -> Any:
    """Creates a network, with the arguments and the preprocessing in the config.json of the same network."""
    if config.get("architecture") != name:
        return timm.create_model(model)
    try:
        return timm.create_model(f"local-dir:{folder}")
    except Exception as error:
        reason = without_function(error).strip().split("\n")[0]
        raise ValueError(f"the config.json in {folder} is not one of {name}: {reason}") from error


def kept_fields(network: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of config.json that are kept: the names of the classes and the preprocessing."""
    known: Mapping[str, Any] = network.pretrained_cfg
    stored: Mapping[str, Any] = config.get("pretrained_cfg", {})
    kept = {key: stored.get(key, known.get(key)) for key in (*PREPROCESSING, "license", "origin_url")}
    fields: dict[str, Any] = {"pretrained_cfg": {key: value for key, value in kept.items() if value is not None}}
    labels = class_names(config)
    return {**fields, "label_names": labels} if len(labels) == network.num_classes else fields


def class_names(config: Mapping[str, Any]) -> list[str]:
    """Returns the class names in a config.json of timm or transformers; empty if it has none."""
    labels = config.get("label_names") or config.get("pretrained_cfg", {}).get("label_names")
    if isinstance(labels, list):
        return [str(label) for label in labels]
    by_index = config.get("id2label")
    if not isinstance(by_index, dict) or by_index.keys() != {str(i) for i in range(len(by_index))}:
        return []
    named = [str(by_index[str(i)]) for i in range(len(by_index))]
    # what transformers writes where nobody has named the classes
    return [] if all(re.fullmatch(r"LABEL_\d+", label) for label in named) else named
