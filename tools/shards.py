"""Weights in a directory: of attnzoo, of timm or of Hugging Face's transformers, in one file or in several."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import read_json

# what the names of files end with that list the files of the weights, one for each tensor
INDEX = ".index.json"

# files of weights in directories, the first that exists is read
IN_DIRECTORIES = (
    "model.safetensors",
    f"model.safetensors{INDEX}",
    "pytorch_model.bin",
    f"pytorch_model.bin{INDEX}",
    "best.pth",
    "last.pth",
)

# maximum number of names listed in a message
_LISTED = 5


def weights_file(path: Path) -> Path:
    """Returns the file of weights in a directory, or the list of such files; a file is returned unchanged.

    Raises:
        ValueError: the directory has none.
    """
    if not path.is_dir():
        return path
    found = next((path / name for name in IN_DIRECTORIES if (path / name).is_file()), None)
    if found is None:
        raise ValueError(f"{path} is a directory without {' or '.join(IN_DIRECTORIES)}: pass a file")
    return found


def files_of(path: Path) -> list[Path]:
    """Returns the files of weights that a list of them names, in order; any other file is the only one.

    Raises:
        ValueError: the list is not one of transformers, names files elsewhere, or files that do not exist.
    """
    if not path.name.endswith(INDEX):
        return [path]
    places = _places(path)
    names = sorted(set(places.values()))
    elsewhere = [name for name in names if Path(name).name != name]
    if elsewhere:
        raise ValueError(f"{path.name} names a file that is not beside it: {textwrap.shorten(elsewhere[0], 60)}")
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing:
        more = f" and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise ValueError(
            f"{path.name} names {len(names)} files, of which {len(missing)} are missing in {path.parent}: "
            f"{', '.join(missing[:_LISTED])}{more}"
        )
    return [path.parent / name for name in names]


def read_shards(path: Path, read: Callable[[Path], Any]) -> dict[str, Tensor]:
    """Reads the tensors of all files that a list of them names.

    Args:
        path: the list, such as `model.safetensors.index.json`.
        read: reads one file.

    Raises:
        ValueError: as `files_of`; or a file lacks a tensor that the list says it has.
    """
    places = _places(path)
    found: dict[str, Tensor] = {}
    for file in files_of(path):
        tensors = read(file)
        if not isinstance(tensors, Mapping):
            raise ValueError(f"{file.name} must contain a dictionary of tensors, got a {type(tensors).__name__}")
        lacking = [name for name, place in places.items() if place == file.name and name not in tensors]
        if lacking:
            raise ValueError(f"{file.name} has no {lacking[0]}, which {path.name} says it has: download it again")
        # a tensor that the list places in another file is an old copy
        found.update({name: x for name, x in tensors.items() if places.get(name, file.name) == file.name})
    return found


def _places(path: Path) -> dict[str, str]:
    index = read_json(path)
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{path.name} is not a list of files of weights: weight_map must name a file for each tensor")
    return places
