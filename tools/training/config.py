"""Training configs: mmengine Python files, read by path or by the name of a packaged config."""

from __future__ import annotations

import os
import textwrap
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine import Config

from attnzoo_command.configs import config_path

from ..data import PREPROCESSING
from .overrides import override


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config file.

    Args:
        name: path of an mmengine Python config, or the name of a packaged one such as "classification/digits".
        overrides: "key=value" or "key.key=value", see `override`.

    Raises:
        FileNotFoundError: `name` is neither a file nor a packaged config.
        ValueError: the file or one of its bases cannot be read as a config, or an override is invalid.
    """
    config = _read(config_path(name))
    override(config, overrides)
    return config


def data_of(name: str | None, options: Sequence[str]) -> dict[str, Any]:
    """Returns the `data` of a config, of "data.key=value" options, or of a config with options as overrides.

    The preprocessing in the config is left out, because that of a model is in the model: only the options override it.

    Args:
        name: a config, see `load_config`; None for options only.
        options: "data.key=value".

    Raises:
        FileNotFoundError: the config does not exist.
        ValueError: no data set is given, or an option does not start with "data.".
    """
    if wrong := [option for option in options if not option.startswith("data.")]:
        raise ValueError(f"options must have the form data.key=value, got {wrong[0]!r}")
    config = Config() if name is None else load_config(name)
    if isinstance(config.get("data"), dict):
        config.data = {key: value for key, value in config.data.items() if key not in (*PREPROCESSING, "resize")}
    override(config, options)
    data = config.get("data")
    if data is None or "name" not in data:
        raise ValueError(
            "no data set is given: pass a config, such as classification/digits, or data.name=... data.root=..."
        )
    return data.to_dict()


def _read(path: Path) -> Config:
    try:
        # mmengine turns every import into an object of its own unless the config asks for it with read_base
        is_lazy = None if "read_base" in path.read_text(encoding="utf-8") else False
        return Config.fromfile(path, lazy_import=is_lazy)
    # a config is Python and may raise any exception
    except (Exception, SystemExit) as error:
        file, line = _place(error, path)
        if isinstance(error, SyntaxError):
            reason = f"is not valid Python: {_inner(error).msg}"
        elif isinstance(error, UnicodeDecodeError):
            reason = "is not UTF-8 text"
        else:
            reason = f"cannot be read: {type(error).__name__}: {textwrap.shorten(str(error), 200)}".rstrip(": ")
        raise ValueError(f"{file}{f', line {line},' if line else ''} {reason}") from error


def _place(error: BaseException, path: Path) -> tuple[Path, int | None]:
    """Returns the file and the line of an error in a config or in one of its bases; the line is None if unknown."""
    files, line = [path], None
    for frame, number in traceback.walk_tb(error.__traceback__):
        # mmengine's function that reads a file, and calls itself for a base
        if frame.f_code.co_name == "_file2dict":
            files.append(Path(frame.f_locals["filename"]))
        elif frame.f_code.co_name == "<module>" and line is None:
            line = number
    if isinstance(error, SyntaxError):
        line = _inner(error).lineno
    # a base that does not exist is a mistake of the file that names it
    files = [file for file in files if file.exists()]
    file = path if files[-1] == path.absolute() else files[-1]
    # what fails without running a config is the list of its bases
    if line is None and not isinstance(error, UnicodeDecodeError) and os.access(file, os.R_OK):
        lines = enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        line = next((number for number, text in lines if text.startswith("_base_")), None)
    return file, line


def _inner(error: SyntaxError) -> SyntaxError:
    """Returns Python's own error; mmengine's has the name of a temporary file in its message, and no line."""
    return error.__context__ if isinstance(error.__context__, SyntaxError) else error
