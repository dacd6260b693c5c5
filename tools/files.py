"""Files and directories that are there whole or not at all: written beside their place and renamed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a place beside `path` to write a file or a directory to, and moves it to `path` when all went well.

    When the writer raises, `path` is what it was; when the process is killed, it is the old or the new, never a part.
    """
    fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    # what a killed process left behind
    if old.exists() and not path.exists():
        old.rename(path)
    for leftover in (fresh, old):
        _remove(leftover)
    try:
        yield fresh
        # a directory with entries cannot be replaced in one step, a file can
        if path.is_dir():
            path.rename(old)
        fresh.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        _remove(fresh)
        _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
