"""Files of weights from anywhere, read as tensors, numbers and text: no code in them is ever run."""

from __future__ import annotations

import argparse
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from attnzoo.base.checkpoints import WRAPPERS

# keys named in a message: beyond that a list is no longer read
LISTED = 20


def read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The tensors of a checkpoint by name, and the keys beside them that could be weights too. Runs no code of it.

    Raises:
        ValueError: it is no checkpoint, needs code to be read, or does not say where its weights are.
    """
    checkpoint = read_file(path)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path.name} holds a {type(checkpoint).__name__}, not a dictionary of tensors")
    weights = checkpoint
    for key in WRAPPERS:
        weights = weights.get(key, weights)
        if not isinstance(weights, Mapping):
            raise ValueError(f"{path.name}: {key} holds a {type(weights).__name__}, not a dictionary of tensors")
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        keys = ", ".join(map(str, list(weights)[:LISTED])) or "none"
        raise ValueError(
            f"{path.name} does not have its weights at the top or under {' or '.join(WRAPPERS)}, its keys are: {keys}. "
            "Save the part that is the weights as a file of its own"
        )
    is_wrapped = weights is not checkpoint
    unused = [key for key, value in checkpoint.items() if is_wrapped and key not in WRAPPERS and _is_weights(value)]
    return dict(weights), tuple(unused)


def _is_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def read_file(path: Path) -> Any:
    """What a file of torch or safetensors holds, on the CPU.

    Raises:
        ValueError: it is not there, is damaged, or holds more than tensors, numbers and text.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    _check_archive(path)
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path.name} is no safetensors file: {error}") from error
    try:
        # training scripts store their arguments beside the weights; a Namespace holds them and does nothing
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = _foreign(path) or re.findall(r"GLOBAL ([\w.]+)", str(error))
        if not foreign:
            raise ValueError(f"{path.name} is no checkpoint of torch, or damaged") from error
        raise ValueError(
            f"{path.name} holds more than tensors, numbers and text: {', '.join(foreign)}. Reading that would run "
            "code, which may come from the file, so it is refused. Where you trust the file, read it with "
            "torch.load(file, weights_only=False) and save its state_dict alone"
        ) from error
    # what a damaged archive makes torch raise has no common class
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ValueError(f"{path.name} is no checkpoint of torch: {reason}") from error


def _check_archive(path: Path) -> None:
    """Refuses an archive that is damaged, or would unpack to more than it weighs: torch stores and never compresses."""
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            is_small = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries) and (
                sum(entry.file_size for entry in entries) <= path.stat().st_size
            )
            # torch reads over a flipped bit, though the sums are there
            damaged = archive.testzip() if is_small else None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path.name} is no checkpoint of torch: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path.name} is damaged: {damaged} in it is not what was written")
    if not is_small:
        raise ValueError(f"{path.name} is no checkpoint of torch: it is compressed, which torch never does")


def _foreign(path: Path) -> list[str]:
    """What the file would import, read from it without doing so; empty where it cannot be told."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:
        return []
