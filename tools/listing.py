"""The list of the models: tables for pages, and the files that the command answers from.

`python -m attnzoo.tools.listing` writes the latter.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint

import attnzoo
from attnzoo.base import sources_of
from attnzoo_command import COMMANDS, HELP, main
from attnzoo_command.listing import TABLE, Entry, entries

from .files import replacing

__all__ = ["CLOSING", "OPENING", "Entry", "entries", "is_ours", "markdown", "names", "write_between", "write_tables"]

# the tables of a page are between these two comments
OPENING, CLOSING = "<!-- models: written by `attnzoo list --readme` -->", "<!-- /models -->"


def names(pattern: str = "") -> list[str]:
    """Returns the registered models of attnzoo, without timm's own models.

    Args:
        pattern: a wildcard pattern as in `timm.list_models`, or a part of the name.
    """
    wildcard = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
    return [name for name in timm.list_models(wildcard) if is_ours(name)]


def is_ours(name: str) -> bool:
    """Returns whether a name is that of a model of attnzoo, not of timm and not unknown."""
    return timm.is_model(name) and model_entrypoint(name).__module__.split(".")[0] == "attnzoo"


def markdown(found: Iterable[Entry]) -> str:
    """Returns one table per family: title, published sources, and the models in the order of their registration."""
    by_family = sorted(found, key=lambda entry: (entry.family, list(_family(entry).default_cfgs).index(entry.name)))
    return "\n\n".join(_table(list(models)) for _, models in groupby(by_family, key=lambda entry: entry.family))


def _family(entry: Entry) -> Any:
    return sys.modules[entry.family]


def _table(models: Sequence[Entry]) -> str:
    title = (inspect.getdoc(_family(models[0])) or models[0].family).partition("\n")[0]
    # unique sources, in the order of the models
    sources = dict.fromkeys(model.published["source"] for model in models if "source" in model.published)
    links = ", ".join(f"[{_label(source)}]({source})" for source in sources)
    lines = [
        title + (f" Published: {links}." if links else ""),
        "",
        "| model | parameters, M | input | GMAC | top-1, % | weights |",
        "|---|---|---|---|---|---|",
    ]
    for model in models:
        height, width = model.input_size[1:]
        cells = (
            f"`{model.name}`",
            f"{model.parameters / 1e6:.1f}",
            str(height) if height == width and model.input_size[0] == 3 else model.size,
            str(model.published.get("gflops", "-")),
            str(model.published.get("top1", "-")),
            "yes" if model.weights else "-",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _label(source: str) -> str:
    """Returns the last part of a URL, a file or a repository name."""
    return source.partition("#")[0].rstrip("/").rpartition("/")[2]


def write_tables(page: Path) -> None:
    """Writes the tables of all models between the comments `OPENING` and `CLOSING` of a page.

    Raises:
        ValueError: the page does not contain each comment exactly once.
    """
    write_between(page, OPENING, CLOSING, markdown(entries()))


def write_between(page: Path, opening: str, closing: str, tables: str) -> None:
    """Replaces the text between two comments of a page.

    Raises:
        ValueError: the page does not contain each comment exactly once, in this order.
    """
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not found or not end or opening in rest or closing in before + after:
        raise ValueError(f"{page} must contain {opening} and, below it, {closing} once each")
    with replacing(page) as fresh:
        fresh.write_text(f"{before}{opening}\n\n{tables}\n\n{closing}{after}", encoding="utf-8")


def write_answers(table: Path = TABLE, pages: Path = HELP) -> None:
    """Writes the files that the command answers from without importing torch: the models, and the help of commands.

    Args:
        table: file of the models.
        pages: file of the help.
    """
    # a line per model, so that a change is seen
    rows = ",\n".join(json.dumps(dataclasses.asdict(row_of(name))) for name in names())
    for path, text in ((table, f"[\n{rows}\n]"), (pages, json.dumps(help_pages(), indent=1, ensure_ascii=False))):
        with replacing(path) as fresh:
            fresh.write_text(f"{text}\n", encoding="utf-8")


def row_of(name: str) -> Entry:
    """Returns the row of a registered model in the table."""
    config = get_pretrained_cfg(name)
    assert config is not None, f"{name} is registered without a default_cfg"
    return Entry(
        name,
        config.tag or "",
        model_entrypoint(name).__module__,
        count_parameters(name),
        config.input_size,
        dict(attnzoo.published(name)),
        config.license or "",
        tuple((str(source), source.digest) for source in sources_of(config)),
    )


def count_parameters(name: str) -> int:
    """Returns the number of parameters of a registered model, which is built for this."""
    # on the meta device no memory is allocated
    with torch.device("meta"):
        return sum(p.numel() for p in timm.create_model(name).parameters())


def help_pages() -> dict[str, str]:
    """Returns the help of every command and of the commands in it, by their names, for 80 columns."""
    pages: dict[str, str] = {}

    def add(command: click.Command, parent: click.Context, name: str) -> None:
        context = click.Context(command, parent, info_name=name, terminal_width=78)
        pages[" ".join(context.command_path.split()[1:])] = command.get_help(context)
        if isinstance(command, click.Group):
            for inner in command.list_commands(context):
                add_named(command, context, inner)

    def add_named(group: click.Group, parent: click.Context, name: str) -> None:
        command = group.get_command(parent, name)
        assert command is not None, f"{group.name} lists {name} without having it"
        add(command, parent, name)

    top = click.Context(main, info_name="attnzoo", help_option_names=["-h", "--help"])
    for name in COMMANDS:
        add_named(main, top, name)
    return pages


if __name__ == "__main__":
    write_answers()
