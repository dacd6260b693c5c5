"""Training configs: mmengine's Python files, read by path or by the name that they are installed under."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from mmengine import Config
from mmengine.config import DictAction


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config file.

    Args:
        name: a path to an mmengine Python config, or the name of a packaged one, "classification/digits".
        overrides: "key=value" or "key.key=value", as mmengine reads them.

    Raises:
        FileNotFoundError: neither a file nor a packaged config.
        ValueError: a file that cannot be read as a config, an override without "=".
    """
    path = Path(name)
    if not path.is_file():
        packaged = packaged_configs()
        if str(name) not in packaged:
            raise FileNotFoundError(
                f"no config {str(name)!r}: give the path of a Python file, or one of {', '.join(packaged)}"
            )
        path = packaged[str(name)]
    if path.suffix != ".py":
        raise ValueError(f"a training config is a Python file (.py), got {path}")
    try:
        config = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error
    if overrides:
        config.merge_from_dict(_parse(overrides))
    return config


def data_of(name: str | None, options: Sequence[str]) -> dict[str, Any]:
    """The data set that a command line names: the `data` of a config, keys "data.key=value", or both.

    Args:
        name: of a config, see `load_config`; None without.
        options: "data.key=value". A first argument with "=" is an option too, and no name.

    Raises:
        FileNotFoundError: no such config.
        ValueError: no data set is named, or an option is about something else.
    """
    if name is not None and "=" in name:
        options, name = [name, *options], None
    if wrong := [option for option in options if not option.startswith("data.")]:
        raise ValueError(f"options must read data.key=value here, got {wrong[0]!r}")
    config = Config() if name is None else load_config(name)
    if options:
        config.merge_from_dict(_parse(options))
    data = config.get("data")
    if data is None or "name" not in data:
        raise ValueError(
            "which data? Name a config, such as classification/digits, or give data.name=... data.root=..."
        )
    return data.to_dict()


def packaged_configs() -> dict[str, Path]:
    """The configs that are installed with attnzoo, by name."""
    # a wheel is always unpacked: the resources are files
    root = Path(str(resources.files("attnzoo.configs")))
    found = sorted(path for path in root.rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in found}


def _parse(overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"an override must read key=value, got {override!r}")
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    parsed: dict[str, Any] = parser.parse_args(["--cfg-options", *overrides]).cfg_options
    return parsed
