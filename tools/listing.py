"""`attnzoo list`: the models, how large they are and what was published about them."""

from __future__ import annotations

import re
from dataclasses import dataclass

import click
import timm
import torch
from timm.models import get_pretrained_cfg, model_entrypoint

import attnzoo


@dataclass(frozen=True)
class Entry:
    """A model: its parameters, its input (C, H, W), published ImageNet top-1 in percent, whether weights exist."""

    name: str
    parameters: int
    input_size: tuple[int, int, int]
    top1: float | None
    weights: bool


def entries(pattern: str = "") -> list[Entry]:
    """The registered models of attnzoo, without those of timm.

    Args:
        pattern: a wildcard pattern as in `timm.list_models`, or a part of the name.
    """
    wildcard = pattern if re.search(r"[*?\[]", pattern) else f"*{pattern}*"
    return [_entry(name) for name in timm.list_models(wildcard) if _is_ours(name)]


def _is_ours(name: str) -> bool:
    return model_entrypoint(name).__module__.split(".")[0] == "attnzoo"


def _entry(name: str) -> Entry:
    # a model on the meta device has shapes and no memory
    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(name).parameters())
    config = get_pretrained_cfg(name)
    assert config is not None, f"{name} is registered without a default_cfg"
    return Entry(name, parameters, config.input_size, attnzoo.published(name).get("top1"), bool(config.has_weights))


@click.command("list")
@click.argument("pattern", default="")
def list_command(pattern: str) -> None:
    """List the models of attnzoo.

    PATTERN is a part of the name or a wildcard pattern; all models without it.

    Prints a table: name, parameters in millions, input size, published ImageNet-1k top-1 accuracy (the paper's figure,
    not a measurement of ours), and whether trained weights can be downloaded.

    \b
    Examples:
      attnzoo list
      attnzoo list 'dinat_*'
    """
    found = entries(pattern)
    if not found:
        raise ValueError(f"no model of attnzoo matches {pattern!r}: see `attnzoo list` for all of them")
    rows = [("name", "parameters", "input", "published top-1", "weights"), *map(_row, found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        click.echo("  ".join([row[0].ljust(widths[0]), *rest]))


def _row(entry: Entry) -> tuple[str, ...]:
    channels, height, width = entry.input_size
    top1 = "-" if entry.top1 is None else f"{entry.top1:.1f} %"
    size = f"{height}x{width}" if channels == 3 else f"{channels}x{height}x{width}"
    return entry.name, f"{entry.parameters / 1e6:.2f} M", size, top1, "yes" if entry.weights else "no"
