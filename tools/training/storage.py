"""Checkpoints and model directories: written atomically and with checksums.

A checkpoint is a normal file of torch.save, read by `torch.load(path, weights_only=True)`. The SHA-256 of its contents
is appended as the comment of the zip archive, because torch does not detect flipped bits. The weights are under
`state_dict`, where timm looks for them.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models import save_for_hf
from torch import nn

from ..data import PREPROCESSING
from ..files import storing, write_sums
from ..weights import read_file, state_classes_once

MODEL, BEST, LAST, CONFIG = "model", "best.pth", "last.pth", "config.py"
# where the run is that another one replaces, until that has stored a checkpoint
ASIDE = ".replaced"
# key of a checkpoint: the state of the optimizer, which is up to twice as large as the weights
OPTIMIZER = "optimizer"

# arguments of timm.create_model about initial weights, and those that are in config.json anyway
_NOT_STORED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes")
_SEAL = b"sha256:"
_SEAL_SIZE = len(_SEAL) + 64
# end of central directory of a zip archive: signature, 16 bytes not used here, length of the comment
_END, _END_SIZE = b"PK\x05\x06", 22


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Writes a checkpoint with a checksum.

    Raises:
        StorageError: it could not be written; the previous file at `path` is intact.
    """
    with storing(path) as fresh:
        torch.save(checkpoint, fresh)
        with fresh.open("r+b") as file:
            _seal(file)
            # the contents must be on disk before the rename
            file.flush()
            os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a checkpoint of `save_checkpoint`.

    Raises:
        ValueError: the file is damaged, or not a checkpoint of `attnzoo train`.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is not a file")
    _check_seal(path)
    checkpoint = read_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("recipe"), str):
        raise ValueError(f"{path} is not a checkpoint of `attnzoo train`")
    return checkpoint


def link(source: Path, path: Path) -> None:
    """Hard link `source` to `path`, replacing `path`; copies the file if links are not supported.

    Raises:
        StorageError: it could not be written; the previous file at `path` is intact.
    """
    with storing(path) as fresh:
        try:
            fresh.hardlink_to(source)
        # not every file system supports hard links
        except OSError:
            shutil.copyfile(source, fresh)


def save_model(
    model: nn.Module,
    directory: Path,
    arguments: Mapping[str, Any],
    preprocessing: Mapping[str, Any],
    classes: Sequence[str],
) -> None:
    """Saves a model in timm's layout, config.json + model.safetensors, for timm.create_model("local-dir:...").

    Args:
        model: a model created by `timm.create_model`.
        directory: directory to write; an existing one is replaced.
        arguments: the arguments of `timm.create_model` other than the name.
        preprocessing: timm's data config, the keys of `attnzoo.tools.data.PREPROCESSING`.
        classes: class names, in the order of the outputs.

    Raises:
        StorageError: it could not be written; the previous directory is intact.
    """
    data_config = {key: preprocessing[key] for key in PREPROCESSING if key in preprocessing}
    config = {"label_names": list(classes), "pretrained_cfg": {**data_config, "num_classes": len(classes)}}
    # timm leaves arguments out that are None, but not those in a config.json
    kept = {key: value for key, value in arguments.items() if key not in _NOT_STORED and value is not None}
    # safetensors requires contiguous tensors, which channels-last weights are not
    handle = model.register_state_dict_post_hook(_lay_out)
    try:
        with storing(directory) as fresh:
            save_for_hf(model, str(fresh), model_config=config, model_args=kept, safe_serialization=True)
            state_classes_once(fresh / "config.json")
            write_sums(fresh)
    finally:
        handle.remove()


def _lay_out(model: nn.Module, state: dict[str, Any], *_: Any) -> None:
    state.update({name: tensor.contiguous() for name, tensor in state.items()})


def sizes(work_dir: Path) -> dict[str, int]:
    """Returns the size of each file and folder of a work directory in bytes, the largest first.

    The space that names of the same file share is counted once.
    """
    seen: set[tuple[int, int]] = set()
    found: dict[str, int] = {}
    for entry in sorted(work_dir.iterdir()):
        if entry.name == ASIDE:
            continue
        for path in sorted(entry.rglob("*")) if entry.is_dir() else (entry,):
            status = path.stat()
            if path.is_file() and (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                found[entry.name] = found.get(entry.name, 0) + status.st_size
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _seal(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(size - _END_SIZE)
    assert file.read(4) == _END, "torch.save has not written a zip archive without a comment"
    file.seek(size - 2)
    file.write(struct.pack("<H", _SEAL_SIZE))
    file.seek(0)
    digest = _digest(file, size)
    file.write(_SEAL + digest)


def _check_seal(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - _SEAL_SIZE))
        seal = file.read()
        file.seek(0)
        if not seal.startswith(_SEAL):
            raise ValueError(f"{path} is not a checkpoint of `attnzoo train`, or truncated")
        if seal[len(_SEAL) :] != _digest(file, size - _SEAL_SIZE):
            raise ValueError(
                f"{path} is damaged: it does not match its checksum. The weights of the best epoch are in {BEST}, "
                "which can replace it if the run has resumable_best=True"
            )


def _digest(file: Any, size: int) -> bytes:
    """Returns the SHA-256, in hexadecimal, of the next `size` bytes of a file."""
    digest = hashlib.sha256()
    while size and (chunk := file.read(min(size, 2**20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()
