"""`attnzoo configs`: the packaged training configs, found without importing attnzoo."""

from __future__ import annotations

import ast
from collections.abc import Collection
from importlib.util import find_spec
from pathlib import Path

import click

from .keys import guess


def packaged_configs() -> dict[str, Path]:
    """Returns the configs that are installed with attnzoo, by name."""
    spec = find_spec("attnzoo")
    # packages are installed as files, and found without being imported
    places = spec.submodule_search_locations if spec is not None else None
    root = Path(next(iter(places or ()), "")) / "configs"
    found = sorted(path for path in root.rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in found}


def config_path(name: str | Path) -> Path:
    """Returns the file of a training config.

    Args:
        name: path of a Python file, or the name of a packaged config.

    Raises:
        FileNotFoundError: it is neither; the message has the nearest names.
        ValueError: it is the path of another file.
    """
    path, packaged = Path(name), packaged_configs()
    if not path.is_file():
        if str(name) not in packaged:
            raise FileNotFoundError(
                f"no config {str(name)!r}{_near(str(name), packaged)}: it must be the path of a Python file, or a name "
                "that `attnzoo configs` lists"
            )
        path = packaged[str(name)]
    if path.suffix != ".py":
        raise ValueError(f"a training config must be a Python file (.py), got {path}")
    return path


def _near(name: str, configs: Collection[str]) -> str:
    """Returns " (did you mean ...?)" with the nearest names, which may lack their folder; empty if none is near."""
    last = name.rpartition("/")[2]
    close = [config for config in configs if config.rpartition("/")[2] == last]
    return f" (did you mean {' or '.join(close)}?)" if close else guess(name, configs)


@click.command("configs")
@click.argument("name", required=False)
def configs_command(name: str | None) -> None:
    """List the packaged training configs, or print the one of NAME.

    attnzoo train takes the name of a packaged config, or the path of a copy that was changed.

    \b
    Examples:
      attnzoo configs
      attnzoo configs classification/imagefolder > my.py
    """
    configs = packaged_configs()
    if name is None:
        width = max(map(len, configs), default=0)
        for title, path in configs.items():
            click.echo(f"{title:<{width}}  {_summary(path)}")
        return
    if name not in configs:
        raise ValueError(f"there is no packaged config {name!r}{_near(name, configs)}: see `attnzoo configs`")
    click.echo(configs[name].read_text(encoding="utf-8"), nl=False)


def _summary(path: Path) -> str:
    """Returns the first line of the docstring of a config."""
    described = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return described.split("\n", 1)[0]
