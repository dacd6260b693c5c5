"""Result files and tables: common entries, formatting, and atomic writes."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import replacing


def today() -> str:
    """The date for a result file and its name."""
    return datetime.date.today().isoformat()


def slug(name: str) -> str:
    """A device's name as part of a file's name: "NVIDIA H200" is nvidia-h200."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write(path: Path, results: Mapping[str, Any]) -> None:
    """Writes a result file atomically."""
    with replacing(path) as fresh:
        fresh.write_text(json.dumps(results, indent=1) + "\n")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Formats cells in columns: the first is left-aligned, the others are right-aligned."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def chosen(names: Sequence[str], only: str) -> list[int]:
    """Returns the indices of the names that contain a text.

    Raises:
        ValueError: no name contains it.
    """
    found = [index for index, name in enumerate(names) if only in name]
    if not found:
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        raise ValueError(f"--only {only!r} matches no row: {shown}")
    return found


def plain(cell: Any) -> str:
    """Formats a cell of a table; of a summary, the median."""
    value = cell["median"] if isinstance(cell, dict) else cell
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def reason(error: Exception, line: int = 0) -> str:
    """Formats an error for a result file: its type and one line of its message."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[line].strip()[:200]}" if said else type(error).__name__
