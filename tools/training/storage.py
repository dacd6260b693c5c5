"""What a run leaves on disk: written beside its place and renamed, so that no reader meets half of it."""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import save_for_hf
from torch import nn

from ..data import PREPROCESSING
from ..files import replacing

MODEL, BEST, LAST = "model", "best.pth", "last.pth"


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Writes tensors, numbers and text for `torch.load(path, weights_only=True)`."""
    with replacing(path) as fresh, fresh.open("wb") as file:
        torch.save(checkpoint, file)
        # the name must not reach the disk before the contents
        file.flush()
        os.fsync(file.fileno())


def recipe_of(path: Path) -> str | None:
    """The recipe, as JSON, of the run that wrote a checkpoint; None when it is not one of ours.

    Raises:
        ValueError: the file cannot be read as tensors, numbers and text.
    """
    try:
        # mapped: of a large file only this entry is read
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint of `attnzoo train`: {error}") from error
    recipe = checkpoint.get("run", {}).get("recipe")
    return None if recipe is None else str(recipe)


def save_model(
    model: nn.Module,
    directory: Path,
    arguments: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    classes: Sequence[str],
) -> None:
    """Stores a model as timm does, config.json + model.safetensors, opened by timm.create_model("local-dir:...").

    Args:
        model: made by `timm.create_model`.
        directory: replaced as a whole when it exists.
        arguments: what `timm.create_model` was given besides the name.
        preprocessing: timm's data config, the keys of `attnzoo.tools.data.PREPROCESSING`.
        classes: label names, in the order of the outputs.
    """
    data_config = {key: preprocessing[key] for key in PREPROCESSING if key in preprocessing}
    config = {"label_names": list(classes), "pretrained_cfg": {**data_config, "num_classes": len(classes)}}
    kept = {key: value for key, value in arguments.items() if key not in ("pretrained", "num_classes")}
    with replacing(directory) as fresh:
        save_for_hf(model, str(fresh), model_config=config, model_args=kept, safe_serialization=True)
