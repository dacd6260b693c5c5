"""Finding image files in folders, without the hidden files and folders of systems and programs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .images import EXTENSIONS

# names that systems write beside images; any name that starts with a dot is also hidden
SYSTEM_NAMES = (
    "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found", "thumbs.db",
    "ehthumbs.db", "desktop.ini",
)  # fmt: skip


def is_hidden(path: str | Path) -> bool:
    """Returns whether a component of a relative path is hidden, such as `.ipynb_checkpoints`, `._x.jpg` or `@eaDir`."""
    return any(map(_is_hidden_name, str(path).replace("\\", "/").split("/")))


def _is_hidden_name(name: str) -> bool:
    # "." and ".." are no names
    return name.lower() in SYSTEM_NAMES or (name.startswith(".") and name not in (".", ".."))


@dataclass
class Skipped:
    """The files and folders that were not read.

    Attributes:
        hidden: number of hidden files and folders, by name.
        others: number of files that do not have the extension of an image, by extension.
    """

    hidden: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    @property
    def remarks(self) -> str:
        """The counts as text; empty if nothing was skipped."""
        parts = (("hidden files and folders", self.hidden), ("files with other extensions", self.others))
        texts = [f"{counts.total()} {what} ({_most_common(counts)})" for what, counts in parts if counts]
        return f"skipped {' and '.join(texts)}" if texts else ""


def find_images(folder: str | Path, skipped: Skipped) -> Iterator[str]:
    """Yields the paths of images in a folder and its subfolders, also linked ones: files with one of EXTENSIONS.

    Args:
        folder: folder to search.
        skipped: counts what is skipped.

    Raises:
        ValueError: a folder cannot be read.
    """

    def search(current: str, above: tuple[str, ...]) -> Iterator[str]:
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except OSError as error:
            raise ValueError(f"folder {current} cannot be read: {error.strerror}") from error
        for entry in entries:
            if _is_hidden_name(entry.name):
                skipped.hidden[entry.name] += 1
            elif entry.is_dir():
                # a link may lead to a folder that it is in
                real = os.path.realpath(entry.path)
                if real not in above:
                    yield from search(entry.path, (*above, real))
            elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                yield entry.path
            else:
                skipped.others[os.path.splitext(entry.name)[1].lower() or "none"] += 1

    yield from search(str(folder), (os.path.realpath(folder),))


def _most_common(counts: Counter[str], shown: int = 4) -> str:
    names = [name for name, _ in counts.most_common(shown)]
    return ", ".join(names) + (", ..." if len(counts) > shown else "")
