"""Configuration tables in `kernels/tables`: tokens, warps and stages of a program, one entry per class of problems."""

from __future__ import annotations

import functools
import json
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
    return tuple(found[min(width_class(width), len(found) - 1)])
