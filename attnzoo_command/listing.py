"""`attnzoo list`: the models, their size and their published accuracy, from a table."""

from __future__ import annotations

import fnmatch
import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

TABLE = Path(__file__).resolve().parent / "models.json"


@dataclass(frozen=True)
class Entry:
    """A model.

    Attributes:
        name: name in timm's registry.
        tag: tag of the weights.
        family: module that registers the model.
        parameters: number of parameters.
        input_size: (C, H, W) of the input images.
        published: figures published by the authors, see `attnzoo.Published`.
        license: license of the weights.
        sources: addresses of the weights in the order in which they are tried, each with the first digits of the file's
            SHA-256 if its name contains them.
    """

    name: str
    tag: str
    family: str
    parameters: int
    input_size: tuple[int, int, int]
    published: dict[str, Any]
    license: str
    sources: tuple[tuple[str, str], ...]

    @property
    def weights(self) -> bool:
        """Whether trained weights can be downloaded."""
        return bool(self.sources)

    @property
    def size(self) -> str:
        """Input size as HxW, or as CxHxW if there are not three channels."""
        channels, height, width = self.input_size
        return f"{height}x{width}" if channels == 3 else f"{channels}x{height}x{width}"


def entries(pattern: str = "") -> list[Entry]:
    """Returns the models of attnzoo, without timm's own models.

    Args:
        pattern: a name, a wildcard pattern as in `timm.list_models`, or a part of names.
    """
    is_exact = any(entry.name == pattern for entry in _table())
    wildcard = pattern if is_exact or re.search(r"[*?\[]", pattern) else f"*{pattern}*"
    return [entry for entry in _table() if fnmatch.fnmatch(entry.name, wildcard)]


@functools.cache
def _table() -> tuple[Entry, ...]:
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(
        Entry(**{**row, "input_size": tuple(row["input_size"]), "sources": tuple(map(tuple, row["sources"]))})
        for row in rows
    )


@click.command("list")
@click.argument("pattern", default="")
@click.option("--weights", is_flag=True, help="Print where the weights are downloaded from, and their license.")
@click.option(
    "--readme",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Write the tables of all models into this Markdown file instead.",
)
def list_command(pattern: str, weights: bool, readme: Path | None) -> None:
    """List the models of attnzoo.

    PATTERN is a name, a part of names or a wildcard pattern. Without it, all models are listed.

    The table shows the name, parameters in millions, input size, ImageNet-1k top-1 accuracy as published by the authors
    (not measured by attnzoo), and whether trained weights can be downloaded, with their license if it is the AGPL.

    With --weights, the sources of each model are printed in the order in which they are tried, with the first digits of
    the file's SHA-256 where the source publishes them.

    \b
    Examples:
      attnzoo list
      attnzoo list 'dinat_*'
      attnzoo list --weights nat_tiny
      attnzoo list --readme docs/models.md
    """
    if readme is not None:
        if pattern or weights:
            raise ValueError(
                f"--readme takes no pattern and no --weights because it writes all models, got {pattern!r}"
            )
        from attnzoo.tools.listing import write_tables

        write_tables(readme)
        return
    found = entries(pattern)
    if not found:
        raise ValueError(f"no model of attnzoo matches {pattern!r}: see `attnzoo list` for all models")
    if weights:
        click.echo("\n".join(map(_sources, found)))
        return
    rows = [("name", "parameters", "input", "published top-1", "weights"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        click.echo("  ".join([row[0].ljust(widths[0]), *rest]))


def _row(entry: Entry) -> Sequence[str]:
    top1 = f"{entry.published['top1']:.1f} %" if "top1" in entry.published else "-"
    weights = "yes" if entry.weights else "no"
    # it also binds what is made with the weights
    if entry.weights and entry.license.startswith("agpl-"):
        weights = f"yes, {entry.license.upper()}"
    return entry.name, f"{entry.parameters / 1e6:.2f} M", entry.size, top1, weights


def _sources(entry: Entry) -> str:
    if not entry.weights:
        return f"{entry.name}: no weights can be downloaded"
    lines = [f"{entry.name}.{entry.tag}, license {entry.license}"]
    for number, (address, digest) in enumerate(entry.sources, 1):
        lines.append(f"  {number}. {address}" + (f"  SHA-256 {digest}..." if digest else ""))
    return "\n".join(lines)
