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
    widths = name, architecture, *path, str(itemsize)
    # kernels that read no channels have a single entry
    place = *widths, min(width_class(width), len(_content_at(widths)) - 1)
    return _replaced.get(place) or entry_at(place)


def optional_entry(name: str, architecture: str, *keys: str) -> tuple[int, ...] | None:
    """Returns the entry of a table at these keys, or None where it is missing."""
    place = name, architecture, *keys
    try:
        return _replaced.get(place) or entry_at(place)
    except KeyError:
        return None


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
    return list(_places((name, architecture), read_table(name)["entries"][architecture]))


def entry_at(place: tuple[Any, ...]) -> tuple[int, ...]:
    """Returns the entry of a place as the file has it.

    Raises:
        KeyError: there is none.
    """
    return tuple(_content_at(place))


def _content_at(place: tuple[Any, ...]) -> Any:
    name, *keys = place
    found: Any = read_table(name)["entries"]
    for key in keys:
        found = found[key]
    return found


def _places(place: tuple[Any, ...], found: Any) -> Iterator[tuple[Any, ...]]:
    for key, inner in found.items() if isinstance(found, dict) else enumerate(found):
        if isinstance(inner, list) and all(isinstance(x, int) for x in inner):
            yield *place, key
        else:
            yield from _places((*place, key), inner)
