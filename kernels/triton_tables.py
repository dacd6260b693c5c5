"""How many tokens a program takes, in which warps: the tables in `kernels/tables`, one entry per class of problems."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from .triton_launch import width_class

FOLDER = Path(__file__).parent / "tables"


@functools.cache
def read_table(name: str) -> dict[str, Any]:
    """A table: under `about` what its numbers mean, under `triton` the versions it was compiled with, and `entries`."""
    table: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return table


def entry_of(name: str, architecture: str, *path: str, itemsize: int, width: int) -> tuple[int, ...]:
    """An entry of a table.

    Args:
        name: of the table.
        architecture: one of `ARCHITECTURES`.
        path: class of problem and direction, as the table has them.
        itemsize: bytes of a number.
        width: channels of the widest operand.
    """
    found = read_table(name)["entries"][architecture]
    for key in (*path, str(itemsize)):
        found = found[key]
    # some kernels read no channels, and have one entry
    return tuple(found[min(width_class(width), len(found) - 1)])
