"""What a run leaves on disk: written beside its place and renamed, so that no reader meets half of it."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from timm.models import save_for_hf
from torch import nn

from ..data import PREPROCESSING

MODEL, BEST, LAST = "model", "best.pth", "last.pth"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a place beside `path` to write a file or a directory to, and moves it to `path` when all went well.

    When the writer raises, `path` is what it was; when the process is killed, it is the old or the new, never a part.
    """
    fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    # what a killed process left behind
    if old.exists() and not path.exists():
        old.rename(path)
    for leftover in (fresh, old):
        _remove(leftover)
    try:
        yield fresh
        # a directory with entries cannot be replaced in one step, a file can
        if path.is_dir():
            path.rename(old)
        fresh.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        _remove(fresh)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


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
