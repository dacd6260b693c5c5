"""Reading weights from untrusted files: tensors, numbers and text only, no code in them is run."""

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

# maximum number of keys listed in a message
LISTED = 20


def read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the tensors of a checkpoint by name, and the unused keys that may also hold weights.

    Raises:
        ValueError: the file is not a checkpoint, needs code to be read, or its weights are not found.
    """
    checkpoint = read_file(path)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path.name} must contain a dictionary of tensors, got a {type(checkpoint).__name__}")
    weights = checkpoint
    for key in WRAPPERS:
        weights = weights.get(key, weights)
        if not isinstance(weights, Mapping):
            raise ValueError(f"{path.name}: {key} must be a dictionary of tensors, got a {type(weights).__name__}")
    if not weights or not all(isinstance(value, Tensor) for value in weights.values()):
        keys = ", ".join(map(str, list(weights)[:LISTED])) or "none"
        raise ValueError(
            f"{path.name} has no weights at the top level or under {' or '.join(WRAPPERS)}, its keys are: {keys}. Save "
            "the state dict as a file of its own"
        )
    is_wrapped = weights is not checkpoint
    unused = [key for key, value in checkpoint.items() if is_wrapped and key not in WRAPPERS and _is_weights(value)]
    return dict(weights), tuple(unused)


def _is_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def read_file(path: Path) -> Any:
    """Loads a file of torch or safetensors to the CPU.

    Raises:
        ValueError: the file does not exist, is damaged, or contains more than tensors, numbers and text.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is not a file")
    _check_archive(path)
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path.name} is not a safetensors file: {error}") from error
    try:
        # training scripts store their arguments next to the weights, in a Namespace, which is harmless
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        foreign = _foreign(path) or re.findall(r"GLOBAL ([\w.]+)", str(error))
        if not foreign:
            raise ValueError(f"{path.name} is not a PyTorch checkpoint, or damaged") from error
        raise ValueError(
            f"{path.name} contains more than tensors, numbers and text: {', '.join(foreign)}. Loading it would run "
            "code, possibly from the file. If you trust the file, load it with torch.load(file, weights_only=False) "
            "and save only its state_dict"
        ) from error
    # torch raises exceptions of many classes on a damaged archive
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).split("\n")[0]
        raise ValueError(f"{path.name} is not a PyTorch checkpoint: {reason}") from error


def _check_archive(path: Path) -> None:
    """Rejects an archive that is damaged or that unpacks to more than its own size; torch never compresses."""
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            is_small = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries) and (
                sum(entry.file_size for entry in entries) <= path.stat().st_size
            )
            # torch does not check the CRCs of the archive, so it would not notice a flipped bit
            damaged = archive.testzip() if is_small else None
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise ValueError(f"{path.name} is not a PyTorch checkpoint: {error}") from error
    if damaged is not None:
        raise ValueError(f"{path.name} is damaged: its member {damaged} does not match its checksum")
    if not is_small:
        raise ValueError(f"{path.name} is not a PyTorch checkpoint: it is compressed, which torch never does")


def _foreign(path: Path) -> list[str]:
    """Lists what the file would import, without importing it; empty if that cannot be determined."""
    try:
        return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
    except Exception:
        return []
