"""Replacing a run: the earlier one stays until the new one has stored a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .curves import HISTORY, PICTURE, TENSORBOARD
from .progress import LOG
from .storage import ASIDE, BEST, CONFIG, LAST, MODEL

# the checkpoint first: without it there is no run
_NAMES = (LAST, BEST, CONFIG, HISTORY, PICTURE, LOG, MODEL, TENSORBOARD)


@contextmanager
def set_aside(work_dir: Path) -> Iterator[None]:
    """Sets the run in a work directory aside, and no other files.

    At the end it is removed, or brought back if the new run has not stored a checkpoint.
    """
    aside = work_dir / ASIDE
    aside.mkdir()
    for name in _NAMES:
        if (work_dir / name).exists():
            (work_dir / name).rename(aside / name)
    try:
        yield
    finally:
        bring_back(work_dir)


def bring_back(work_dir: Path) -> None:
    """Ends what `set_aside` began, also in another process that was killed; does nothing if there is no earlier run."""
    aside = work_dir / ASIDE
    if not aside.is_dir():
        return
    if not (work_dir / LAST).exists():
        # the checkpoint last: what is interrupted here goes on the next time
        for name in reversed(_NAMES):
            if (aside / name).exists():
                _remove(work_dir / name)
                (aside / name).rename(work_dir / name)
    shutil.rmtree(aside)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
