"""`attnzoo list`: the models, their size and their published accuracy."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import click
import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint

import attnzoo

from .files import replacing

# the tables of a page are between these two comments
OPENING, CLOSING = "<!-- models: written by `attnzoo list --readme` -->", "<!-- /models -->"


@dataclass(frozen=True)
class Entry:
    """A model.

    Attributes:
        name: name in timm's registry.
        family: module that registers the model.
        parameters: number of parameters.
        input_size: (C, H, W) of the input images.
        published: figures published by the authors.
        weights: whether trained weights can be downloaded.
    """

    name: str
    family: str
    parameters: int
    input_size: tuple[int, int, int]
    published: attnzoo.Published
    weights: bool

    @property
    def size(self) -> str:
        """Input size as HxW, or as CxHxW if there are not three channels."""
        channels, height, width = self.input_size
        return f"{height}x{width}" if channels == 3 else f"{channels}x{height}x{width}"


def entries(pattern: str = "") -> list[Entry]:
    """Returns the registered models of attnzoo, without timm's own models.

    Args:
        pattern: a wildcard pattern as in `timm.list_models`, or a part of the name.
    """
    return [_entry(name) for name in names(pattern)]


def names(pattern: str = "") -> list[str]:
    """Returns the model names of `entries`."""
    wildcard = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
    return [name for name in timm.list_models(wildcard) if is_ours(name)]


def is_ours(name: str) -> bool:
    """Returns whether a model in timm's registry belongs to attnzoo."""
    return model_entrypoint(name).__module__.split(".")[0] == "attnzoo"


@functools.cache
def _entry(name: str) -> Entry:
    # on the meta device no memory is allocated
    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(name).parameters())
    config = get_pretrained_cfg(name)
    assert config is not None, f"{name} is registered without a default_cfg"
    return Entry(
        name,
        model_entrypoint(name).__module__,
        parameters,
        config.input_size,
        attnzoo.published(name),
        bool(config.has_weights),
    )


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


@click.command("list")
@click.argument("pattern", default="")
@click.option(
    "--readme",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Write the tables of all models into this Markdown file instead.",
)
def list_command(pattern: str, readme: Path | None) -> None:
    """List the models of attnzoo.

    PATTERN is a part of the name or a wildcard pattern. Without it, all models are listed.

    The table shows the name, parameters in millions, input size, ImageNet-1k top-1 accuracy as published by the authors
    (not measured by attnzoo), and whether trained weights can be downloaded.

    \b
    Examples:
      attnzoo list
      attnzoo list 'dinat_*'
      attnzoo list --readme docs/models.md
    """
    if readme is not None:
        if pattern:
            raise ValueError(f"--readme takes no pattern because it writes all models, got {pattern!r}")
        write_tables(readme)
        return
    found = entries(pattern)
    if not found:
        raise ValueError(f"no model of attnzoo matches {pattern!r}: see `attnzoo list` for all models")
    rows = [("name", "parameters", "input", "published top-1", "weights"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        click.echo("  ".join([row[0].ljust(widths[0]), *rest]))


def _row(entry: Entry) -> tuple[str, ...]:
    top1 = f"{entry.published['top1']:.1f} %" if "top1" in entry.published else "-"
    return entry.name, f"{entry.parameters / 1e6:.2f} M", entry.size, top1, "yes" if entry.weights else "no"
