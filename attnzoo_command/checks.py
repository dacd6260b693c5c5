"""Mistakes in `attnzoo train` that are found without importing torch, which takes seconds."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .configs import config_path
from .devices import check_name
from .keys import check_is_dict, split_option, unknown_key

# data sets that are files in the folder data.root, unless other keys say where the splits are
_IN_ROOT = ("imagefolder", "coco", "yolo", "voc", "maskfolder")
_NOT_PLACES = ("val_share", "val_seed")


def check_training(config: str, options: Sequence[str], device: str = "auto") -> None:
    """Checks the name of a config, the keys on the command line, and that the folder of the data exists.

    What it does not find is found when the config is read and the data is opened.

    Args:
        config: path of a config, or the name of a packaged one.
        options: "key=value".
        device: name of a device.

    Raises:
        FileNotFoundError: the config or the folder does not exist.
        ValueError: an option, a key or the name of the device is invalid.
    """
    path = config_path(config)
    check_name(device)
    given = _literals(path)
    pairs = [split_option(option) for option in options]
    keys = recipe_keys()
    task = str(dict(pairs).get("task", given.get("task", "classification")))
    for key, text in pairs:
        first = key.split(".")[0]
        if first not in keys:
            raise ValueError(unknown_key(first, text if first == key else "", keys, task))
        if first == key:
            check_is_dict(key, text)
    data = given.get("data")
    chosen = {key.removeprefix("data."): text for key, text in pairs if key.startswith("data.")}
    _check_root({**(data if isinstance(data, dict) else {}), **chosen}, is_given="root" in chosen)


def recipe_keys() -> list[str]:
    """Returns the keys of a training config, read from the source of the class `Recipe`, which imports torch."""
    spec = find_spec("attnzoo")
    places = spec.submodule_search_locations if spec is not None else None
    source = Path(next(iter(places or ()), "")) / "tools" / "training" / "recipe.py"
    (recipe,) = (
        node
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "Recipe"
    )
    fields = (node.target for node in recipe.body if isinstance(node, ast.AnnAssign))
    return [target.id for target in fields if isinstance(target, ast.Name)]


def _check_root(data: dict[str, Any], is_given: bool) -> None:
    root = data.get("root")
    is_elsewhere = any(key.startswith(("train", "val")) and key not in _NOT_PLACES for key in data)
    if data.get("name") not in _IN_ROOT or not isinstance(root, str) or is_elsewhere or Path(root).is_dir():
        return
    if not is_given:
        raise FileNotFoundError(f"data.root: folder {root} does not exist: set data.root=FOLDER to that of your images")
    folder = Path(root).parent
    there = [entry.name for entry in folder.iterdir() if entry.is_dir()] if folder.is_dir() else []
    near = [str(folder / name) for name in difflib.get_close_matches(Path(root).name, there, 1)]
    place = "" if folder.is_absolute() else f", looked for in {folder.absolute()}"
    hint = f": did you mean data.root={near[0]}?" if near else place
    raise FileNotFoundError(f"data.root: folder {root} does not exist{hint}")


def _literals(config: Path) -> dict[str, Any]:
    """Returns the keys whose values a config writes out, without running it; empty if it cannot be read."""
    try:
        lines = ast.parse(config.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return {}
    found: dict[str, Any] = {}
    for line in lines:
        if isinstance(line, ast.Assign) and isinstance(line.targets[0], ast.Name):
            found[line.targets[0].id] = _value(line.value)
    return found


def _value(node: ast.expr) -> Any:
    """Returns the value of a literal or of `dict(key=literal, ...)`, where other values are None."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict":
        return {entry.arg: _value(entry.value) for entry in node.keywords if entry.arg is not None}
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None
