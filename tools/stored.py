"""Storage of a detector or a segmenter as a directory of plain data, `config.json` and `model.safetensors`.

`config.json` holds `task`, `architecture` and `model_args` (of `timm.create_model`), `label_names`, `preprocessing`
(`mean` and `std` of each channel, and what a task adds), and the options of the task's head. `SHA256SUMS` is used to
detect damaged files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from safetensors.torch import save_file
from torch import nn

from .files import check_sums, read_json, storing, write_sums
from .models import model_directory
from .weights import read_file

CONFIG, WEIGHTS = "config.json", "model.safetensors"

# arguments of timm.create_model that download weights or read other files
FETCHING = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only")

_KINDS = {"detection": "detector", "segmentation": "segmenter"}
_KEYS = {"task": str, "architecture": str, "model_args": dict, "label_names": list, "preprocessing": dict}

_Network = TypeVar("_Network", bound=nn.Module)


def save_network(
    network: nn.Module,
    directory: Path,
    task: str,
    architecture: str,
    arguments: Mapping[str, Any],
    classes: Sequence[str],
    preprocessing: Mapping[str, Any],
    **options: Mapping[str, Any],
) -> None:
    """Writes a network as a directory; an existing directory is replaced as a whole.

    Args:
        network: the network.
        directory: directory to write.
        task: its task, a key of a recipe.
        architecture: name of the timm model that it is built on.
        arguments: arguments of `timm.create_model`; those that download weights are not stored.
        classes: names of the labels.
        preprocessing: `mean` and `std` of each channel, and what the task adds.
        options: the key of a recipe for the head of the task, with its options.

    Raises:
        StorageError: the directory cannot be written; an existing one stays as it was.
        ValueError: an argument is not plain data.
    """
    kept = {key: value for key, value in arguments.items() if key not in FETCHING}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    config = {"task": task, "architecture": architecture, "model_args": kept, **options}
    config |= {"label_names": list(classes), "preprocessing": dict(preprocessing)}
    with storing(directory) as fresh:
        fresh.mkdir(parents=True)
        save_file(weights, fresh / WEIGHTS)
        try:
            text = json.dumps(config, indent=2)
        except TypeError as error:
            raise ValueError(f"model: arguments must be numbers, text or lists to be stored: {error}") from error
        (fresh / CONFIG).write_text(text + "\n")
        write_sums(fresh)


def open_network(
    directory: str | Path, task: str, options: str, create: Callable[[Mapping[str, Any]], _Network]
) -> tuple[_Network, dict[str, Any]]:
    """Opens the network of a directory in evaluation mode; returns it and its config. Runs no code from the directory.

    Args:
        directory: directory of the network, or the work directory of its training.
        task: the task that it must have.
        options: key of the options of its head.
        create: creates the network of a config, with random weights.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory was not written by `attnzoo train` for this task, or is damaged.
    """
    directory = Path(model_directory(str(directory)))
    check_sums(directory)
    config = _read_config(directory, task, options)
    path, where = directory / WEIGHTS, directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {_needs(task)}")
    weights = read_file(path)
    try:
        # without memory for weights, so that a config that is much larger than the file is rejected first
        with torch.device("meta"):
            expected = {name: tensor.shape for name, tensor in create(config).state_dict().items()}
    # torch raises various exceptions for impossible sizes
    except Exception as error:
        raise ValueError(f"{where} does not describe a {_KINDS[task]}: {error}") from error
    if expected != {name: tensor.shape for name, tensor in weights.items()}:
        differing = sorted(
            name for name in {*expected, *weights} if expected.get(name) != getattr(weights.get(name), "shape", None)
        )
        raise ValueError(f"{where} and {WEIGHTS} do not match: {', '.join(differing[:5])}")
    network = create(config)
    network.load_state_dict(weights)
    return network.eval(), config


def _read_config(directory: Path, task: str, options: str) -> dict[str, Any]:
    path = directory / CONFIG
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: {_needs(task)}")
    config = read_json(path)
    if not isinstance(config, dict) or config.get("task") != task:
        raise ValueError(f'{path} is not the config of a {_KINDS[task]}: task must be "{task}"')
    for key, kind in {**_KEYS, options: dict}.items():
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
    return config


def _needs(task: str) -> str:
    return f"the directory of a {_KINDS[task]} needs {CONFIG} and {WEIGHTS}"
