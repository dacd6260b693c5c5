"""Configuration tables in `kernels/tables`: tokens, warps and stages of a program, one entry per class of problems."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .triton_launch import width_class

FOLDER = Path(__file__).parent / "tables"


@functools.cache
def read_table(name: str) -> dict[str, Any]:
    """Reads a table: `about` explains the numbers, `triton` lists compiler versions, `entries` holds the numbers."""
    table: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return table


def entry_of(name: str, architecture: str, *path: str, itemsize: int, width: int) -> tuple[int, ...]:
    """Returns an entry of a table.

    Args:
        name: name of the table.
        architecture: one of `ARCHITECTURES`.
        path: keys of the problem class and the direction in the table.
        itemsize: bytes per element.
        width: channels of the widest operand.
    """
    found = read_table(name)["entries"][architecture]
    for key in (*path, str(itemsize)):
        found = found[key]
    # kernels that read no channels have a single entry
    place = min(width_class(width), len(found) - 1)
    return _replaced.get((name, architecture, *path, str(itemsize), place), tuple(found[place]))


def optional_entry(name: str, architecture: str, *keys: str) -> tuple[int, ...] | None:
    """Returns the entry of a table at these keys, or None where it is missing."""
    place = name, architecture, *keys
    return _replaced.get(place, dict(_entries(place[:2], read_table(name)["entries"][architecture])).get(place))


# entries that stand in for those of the files, by table, architecture and keys
_replaced: dict[tuple[Any, ...], tuple[int, ...]] = {}


@contextmanager
def replaced(place: tuple[Any, ...], entry: tuple[int, ...]) -> Iterator[None]:
    """Replaces an entry, to try it; `place` is the name of its table, the architecture, and its keys."""
    _replaced[place] = entry
    try:
        yield
    finally:
        del _replaced[place]


def places_of(name: str, architecture: str) -> list[tuple[Any, ...]]:
    """Returns the places of all entries of an architecture in a table, see `replaced`."""
    return [place for place, _ in _entries((name, architecture), read_table(name)["entries"][architecture])]


def entry_at(place: tuple[Any, ...]) -> tuple[int, ...]:
    """Returns the entry of a place as the file has it."""
    name, architecture, *_ = place
    return dict(_entries((name, architecture), read_table(name)["entries"][architecture]))[place]


def _entries(place: tuple[Any, ...], found: Any) -> Iterator[tuple[tuple[Any, ...], tuple[int, ...]]]:
    keys = found.items() if isinstance(found, dict) else enumerate(found)
    for key, inner in keys:
        if isinstance(inner, list) and all(isinstance(x, int) for x in inner):
            yield (*place, key), tuple(inner)
        else:
            yield from _entries((*place, key), inner)
