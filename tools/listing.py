"""`attnzoo list`: the models, how large they are and what was published about them."""

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

# what stands around the tables in a page
OPENING, CLOSING = "<!-- models: written by `attnzoo list --readme` -->", "<!-- /models -->"


@dataclass(frozen=True)
class Entry:
    """A model.

    Attributes:
        name: what timm creates it by.
        family: module of the file that registers it.
        parameters: their number.
        input_size: of its images (C, H, W).
        published: the authors' figures.
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
        """Height and width of its images, and their channels unless they are three."""
        channels, height, width = self.input_size
        return f"{height}x{width}" if channels == 3 else f"{channels}x{height}x{width}"


def entries(pattern: str = "") -> list[Entry]:
    """The registered models of attnzoo, without those of timm.

    Args:
        pattern: a wildcard pattern as in `timm.list_models`, or a part of the name.
    """
    return [_entry(name) for name in names(pattern)]


def names(pattern: str = "") -> list[str]:
    """The names of `entries`."""
    wildcard = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
    return [name for name in timm.list_models(wildcard) if is_ours(name)]


def is_ours(name: str) -> bool:
    """Whether a model that timm knows is one of attnzoo."""
    return model_entrypoint(name).__module__.split(".")[0] == "attnzoo"


@functools.cache
def _entry(name: str) -> Entry:
    # a model on the meta device has shapes and no memory
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
    """Tables of models, one per family: its title and published sources, then its models in the order of its file."""
    by_family = sorted(found, key=lambda entry: (entry.family, list(_family(entry).default_cfgs).index(entry.name)))
    return "\n\n".join(_table(list(models)) for _, models in groupby(by_family, key=lambda entry: entry.family))


def _family(entry: Entry) -> Any:
    return sys.modules[entry.family]


def _table(models: Sequence[Entry]) -> str:
    title = (inspect.getdoc(_family(models[0])) or models[0].family).partition("\n")[0]
    # a source once, in the order of the models
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
    """The last part of an address, which is a file or a repository."""
    return source.partition("#")[0].rstrip("/").rpartition("/")[2]


def write_tables(page: Path) -> None:
    """Writes the tables of all models between the two comments of a page, `OPENING` and `CLOSING`.

    Raises:
        ValueError: the page does not have each of them once.
    """
    write_between(page, OPENING, CLOSING, markdown(entries()))


def write_between(page: Path, opening: str, closing: str, tables: str) -> None:
    """Replaces what a page holds between two comments.

    Raises:
        ValueError: the page does not have each of them once, in this order.
    """
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    if not found or not end or opening in rest or closing in before + after:
        raise ValueError(f"{page} must have {opening} and, after it, {closing} once each, on lines of their own")
    with replacing(page) as fresh:
        fresh.write_text(f"{before}{opening}\n\n{tables}\n\n{closing}{after}", encoding="utf-8")


@click.command("list")
@click.argument("pattern", default="")
@click.option(
    "--readme",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Instead write the tables of all models into this page.",
)
def list_command(pattern: str, readme: Path | None) -> None:
    """List the models of attnzoo.

    PATTERN is a part of the name or a wildcard pattern; all models without it.

    Prints a table: name, parameters in millions, input size, published ImageNet-1k top-1 accuracy (the paper's figure,
    not a measurement of ours), and whether trained weights can be downloaded.

    \b
    Examples:
      attnzoo list
      attnzoo list 'dinat_*'
      attnzoo list --readme docs/models.md
    """
    if readme is not None:
        if pattern:
            raise ValueError(f"--readme writes all models, it takes no pattern, got {pattern!r}")
        write_tables(readme)
        return
    found = entries(pattern)
    if not found:
        raise ValueError(f"no model of attnzoo matches {pattern!r}: see `attnzoo list` for all of them")
    rows = [("name", "parameters", "input", "published top-1", "weights"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        click.echo("  ".join([row[0].ljust(widths[0]), *rest]))


def _row(entry: Entry) -> tuple[str, ...]:
    top1 = f"{entry.published['top1']:.1f} %" if "top1" in entry.published else "-"
    return entry.name, f"{entry.parameters / 1e6:.2f} M", entry.size, top1, "yes" if entry.weights else "no"
