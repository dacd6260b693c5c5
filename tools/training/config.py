"""Training configs: mmengine Python files, read by path or by the name of a packaged config."""

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
        name: path of an mmengine Python config, or the name of a packaged one such as "classification/digits".
        overrides: "key=value" or "key.key=value", parsed by mmengine.

    Raises:
        FileNotFoundError: `name` is neither a file nor a packaged config.
        ValueError: the file is not a valid config, or an override has no "=".
    """
    path = Path(name)
    if not path.is_file():
        packaged = packaged_configs()
        if str(name) not in packaged:
            raise FileNotFoundError(
                f"no config {str(name)!r}: must be the path of a Python file, or one of {', '.join(packaged)}"
            )
        path = packaged[str(name)]
    if path.suffix != ".py":
        raise ValueError(f"a training config must be a Python file (.py), got {path}")
    try:
        config = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error
    if overrides:
        config.merge_from_dict(_parse(overrides))
    return config


def data_of(name: str | None, options: Sequence[str]) -> dict[str, Any]:
    """Returns the `data` of a config, of "data.key=value" options, or of a config with options as overrides.

    Args:
        name: a config, see `load_config`; None for options only. If it contains "=", it is an option too.
        options: "data.key=value".

    Raises:
        FileNotFoundError: the config does not exist.
        ValueError: no data set is given, or an option does not start with "data.".
    """
    if name is not None and "=" in name:
        options, name = [name, *options], None
    if wrong := [option for option in options if not option.startswith("data.")]:
        raise ValueError(f"options must have the form data.key=value, got {wrong[0]!r}")
    config = Config() if name is None else load_config(name)
    if options:
        config.merge_from_dict(_parse(options))
    data = config.get("data")
    if data is None or "name" not in data:
        raise ValueError(
            "no data set is given: pass a config, such as classification/digits, or data.name=... data.root=..."
        )
    return data.to_dict()


def packaged_configs() -> dict[str, Path]:
    """Returns the configs that are installed with attnzoo, by name."""
    # packages are installed as files, so the resources have paths
    root = Path(str(resources.files("attnzoo.configs")))
    found = sorted(path for path in root.rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in found}


def _parse(overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"an override must have the form key=value, got {override!r}")
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    parsed: dict[str, Any] = parser.parse_args(["--cfg-options", *overrides]).cfg_options
    return parsed
