"""What a run leaves on disk: written beside its place and renamed, and sealed, so that damage is noticed.

A checkpoint is an ordinary file of torch.save, read by `torch.load(path, weights_only=True)`. After its end stands, as
the comment that a zip archive may have, the SHA-256 of all that comes before: torch itself does not notice a flipped
bit. The weights are under `state_dict`, where timm looks for them.
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
from ..weights import read_file

MODEL, BEST, LAST = "model", "best.pth", "last.pth"

# arguments of timm.create_model about weights that the stored ones replace, and what config.json has already
_NOT_STORED = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "num_classes")
_SEAL = b"sha256:"
_SEAL_SIZE = len(_SEAL) + 64
# the end of a zip archive: a signature, 16 bytes that do not matter here, and the length of the comment
_END, _END_SIZE = b"PK\x05\x06", 22


def save_checkpoint(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Writes tensors, numbers and text, sealed.

    Raises:
        StorageError: it could not be written; what was at `path` is still there.
    """
    with storing(path) as fresh:
        torch.save(checkpoint, fresh)
        with fresh.open("r+b") as file:
            _seal(file)
            # the name must not reach the disk before the contents
            file.flush()
            os.fsync(file.fileno())


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote.

    Raises:
        ValueError: it is damaged, or no checkpoint of `attnzoo train`.
    """
    if not path.is_file():
        raise ValueError(f"{path} is no file")
    _check_seal(path)
    checkpoint = read_file(path)
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("recipe"), str):
        raise ValueError(f"{path} is not a checkpoint of `attnzoo train`")
    return checkpoint


def link(source: Path, path: Path) -> None:
    """Gives a file a second name, in place of what had it.

    Raises:
        StorageError: it could not; what was at `path` is still there.
    """
    with storing(path) as fresh:
        try:
            fresh.hardlink_to(source)
        # not every file system can
        except OSError:
            shutil.copyfile(source, fresh)


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

    Raises:
        StorageError: it could not be written; what was at `directory` is still there.
    """
    data_config = {key: preprocessing[key] for key in PREPROCESSING if key in preprocessing}
    config = {"label_names": list(classes), "pretrained_cfg": {**data_config, "num_classes": len(classes)}}
    kept = {key: value for key, value in arguments.items() if key not in _NOT_STORED}
    # safetensors refuses what is laid out channels last
    handle = model.register_state_dict_post_hook(_lay_out)
    try:
        with storing(directory) as fresh:
            save_for_hf(model, str(fresh), model_config=config, model_args=kept, safe_serialization=True)
            write_sums(fresh)
    finally:
        handle.remove()


def _lay_out(model: nn.Module, state: dict[str, Any], *_: Any) -> None:
    state.update({name: tensor.contiguous() for name, tensor in state.items()})


def _seal(file: Any) -> None:
    size = file.seek(0, os.SEEK_END)
    file.seek(size - _END_SIZE)
    assert file.read(4) == _END, "torch.save has not written a plain zip archive"
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
            raise ValueError(f"{path} is not a checkpoint of `attnzoo train`, or does not end where it should")
        if seal[len(_SEAL) :] != _digest(file, size - _SEAL_SIZE):
            raise ValueError(
                f"{path} is damaged: it is not what was written. Where {BEST} beside it is whole, copy that over it to "
                "continue after the best epoch"
            )


def _digest(file: Any, size: int) -> bytes:
    """SHA-256, in hexadecimal, of the next `size` bytes of a file."""
    digest = hashlib.sha256()
    while size and (chunk := file.read(min(size, 2**20))):
        digest.update(chunk)
        size -= len(chunk)
    return digest.hexdigest().encode()
