"""Reading weights from untrusted files: tensors, numbers and text only, no code in them is run."""

from __future__ import annotations

import argparse
import json
import pickle
import re
import textwrap
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from attnzoo.base.checkpoints import WRAPPERS, own_name
from attnzoo.base.pickled import foreign_names, state_dict_of

from .shards import INDEX, files_of, read_shards

# maximum number of keys listed in a message
LISTED = 20

# the keys of averages of the weights, which timm prefers when it loads a file
AVERAGES = ("state_dict_ema", "model_ema")

# tensors that share memory, such as tied weights, may be so many times larger than their file
_MOST_SHARED = 16


def read_weights(path: Path, key: str | None = None) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Returns the tensors of a checkpoint by name, and the unused keys that may also hold weights.

    The average of the weights is preferred if the file has one, as when timm loads the file.

    Args:
        path: the file, or a list of the files that hold the tensors, such as `model.safetensors.index.json`.
        key: the key of the file to read the weights from; None for the rule above.

    Raises:
        ValueError: the file is not a checkpoint, needs code to be read, or its weights are not found.
    """
    checkpoint = read_shards(path, read_file) if path.name.endswith(INDEX) else read_file(path)
    if not isinstance(checkpoint, Mapping):
        raise ValueError(f"{path.name} must contain a dictionary of tensors, got a {type(checkpoint).__name__}")
    weights, used = _found(checkpoint, path.name) if key is None else _chosen(checkpoint, path.name, key)
    if not _is_weights(weights):
        keys = ", ".join(textwrap.shorten(str(key), 60) for key in list(weights)[:LISTED]) or "none"
        raise ValueError(
            f"{path.name} has no weights at the top level or under {' or '.join(WRAPPERS)}, its keys are: {keys}. Save "
            "the state dict as a file of its own"
        )
    _check_tensors(weights, path)
    unused = [str(key) for key, value in checkpoint.items() if used and key != used and _is_weights(value)]
    return _with_own_names(weights, path.name), tuple(unused)


def _with_own_names(weights: Mapping[str, Tensor], file: str) -> dict[str, Tensor]:
    """Removes what wrappers of modules put before names."""
    named: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        own = own_name(name)
        other = named.get(own)
        if other is not None and (other.dtype != tensor.dtype or not torch.equal(other, tensor)):
            raise ValueError(f"{file} has two tensors for {own}, one of them named {name}: save one set of weights")
        named[own] = tensor
    return named


def _found(checkpoint: Mapping[Any, Any], file: str) -> tuple[Mapping[Any, Any], str]:
    """Returns the weights of a checkpoint and their outermost key: an average of the weights first, as in timm."""
    used = next((key for key in AVERAGES if _is_weights(checkpoint.get(key))), "")
    if used:
        return checkpoint[used], used
    weights = checkpoint
    for key in WRAPPERS:
        used = used or (key if key in weights else "")
        weights = weights.get(key, weights)
        if not isinstance(weights, Mapping):
            raise ValueError(f"{file}: {key} must be a dictionary of tensors, got a {type(weights).__name__}")
    return weights, used


def _chosen(checkpoint: Mapping[Any, Any], file: str, key: str) -> tuple[Mapping[Any, Any], str]:
    if not isinstance(checkpoint.get(key), Mapping):
        keys = ", ".join(textwrap.shorten(str(name), 60) for name, x in checkpoint.items() if isinstance(x, Mapping))
        raise ValueError(f"{file} has no dictionary under {key!r}, its keys with one are: {keys or 'none'}")
    return _found(checkpoint[key], f"{file}, {key}")[0], key


def _is_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(entry, Tensor) for entry in value.values())


def _check_tensors(weights: Mapping[Any, Tensor], path: Path) -> None:
    for name, tensor in weights.items():
        if not isinstance(name, str):
            raise ValueError(f"{path.name}: the names of weights must be text, got {name!r}")
        is_plain = tensor.layout == torch.strided and not (tensor.is_nested or tensor.is_quantized or tensor.is_meta)
        if not is_plain:
            raise ValueError(f"{path.name}: {name} is sparse, nested, quantized or without data: store dense tensors")
    size = sum(tensor.nbytes for tensor in weights.values())
    stored = sum(file.stat().st_size for file in files_of(path))
    if size > _MOST_SHARED * stored:
        raise ValueError(
            f"{path.name} has {stored / 2**20:.0f} MiB, but its tensors {size / 2**20:.0f} MiB: store tensors that are "
            "not expanded"
        )


def read_file(path: Path) -> Any:
    """Loads a file of torch or safetensors to the CPU.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file does not exist, is damaged, or contains more than tensors, numbers and text.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist or is not a file")
    # reported as an error of the system, which the readers below take for a damaged file
    path.open("rb").close()
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
        weights = state_dict_of(path)
        if weights is not None:
            return weights
        foreign = foreign_names(path) or re.findall(r"GLOBAL ([\w.]+)", str(error))
        if not foreign:
            raise ValueError(f"{path.name} is not a PyTorch checkpoint, or damaged") from error
        raise ValueError(
            f"{path.name} contains more than tensors, numbers and text: {', '.join(foreign)}. Loading it would run "
            "code, possibly from the file. If you trust the file, load it with torch.load(file, weights_only=False) "
            "and save only its state_dict"
        ) from error
    # torch raises exceptions of many classes on a damaged archive
    except Exception as error:
        # that of a LookupError is only the byte or the name that was not found
        is_said = bool(str(error).strip()) and not isinstance(error, LookupError)
        reason = str(error).strip().split("\n")[0] if is_said else "torch.save has not written it, or it is damaged"
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
    _check_no_program(path, {entry.filename.partition("/")[2] for entry in entries})
    if damaged is not None:
        raise ValueError(f"{path.name} is damaged: its member {damaged} does not match its checksum")
    if not is_small:
        raise ValueError(f"{path.name} is not a PyTorch checkpoint: it is compressed, which torch never does")


def _check_no_program(path: Path, members: set[str]) -> None:
    if "constants.pkl" in members and any(name.startswith("code/") for name in members):
        raise ValueError(
            f"{path.name} is a TorchScript archive, which holds code: if you trust it, save its weights with "
            "torch.save(torch.jit.load(file).state_dict(), other_file), and convert those"
        )
    if "archive_format" in members or any(name.startswith("models/") for name in members):
        raise ValueError(
            f"{path.name} is a program of torch.export: if you trust it, save its weights with "
            "torch.save(torch.export.load(file).state_dict, other_file), and convert those"
        )


def state_classes_once(path: Path) -> None:
    """Removes the number of classes from the arguments in a config.json of timm, which has it in a field of its own.

    transformers passes the field and the arguments to timm, and cannot open a model that has it in both.
    """
    config = json.loads(path.read_text(encoding="utf-8"))
    config.get("model_args", {}).pop("num_classes", None)
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
