"""Pictures that timm's readers find, and the names of their classes."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from timm.data.readers import img_extensions
from timm.data.readers.class_map import load_class_map

from ..images import UnreadableImageError

# what is looked for under a split's name, as in timm
SPLIT_NAMES = {"train": ("train", "training"), "val": ("val", "valid", "validation", "eval", "evaluation")}

# timm itself looks for PNG and JPEG only
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pgm", ".ppm")


class ReadPictures:
    """Pictures with one class each, from a reader of timm.

    Args:
        reader: has `reader[index]`, a file and its label, and `filename(index)`.
        classes: names, in the order of the labels.
        root: put before the reader's names in messages.
    """

    def __init__(self, reader: Any, classes: Sequence[str], root: str) -> None:
        self.reader, self.classes, self.root = reader, classes, root

    def __len__(self) -> int:
        return len(self.reader)

    def open(self, index: int) -> tuple[BinaryIO, int]:
        """The file of a picture, and its label.

        Raises:
            UnreadableImageError: it is gone, or may not be read.
        """
        try:
            file, label = self.reader[index]
        # what timm stumbles over where a row of a table holds no picture
        except (OSError, tarfile.TarError, AssertionError, TypeError) as error:
            reason = str(error) or "there is no picture"
            raise UnreadableImageError(f"{self.name(index)} cannot be opened: {reason}") from error
        return file, int(label)

    def name(self, index: int) -> str:
        """What to call the picture in a message."""
        return f"{self.root}/{self.reader.filename(index)}"


@contextmanager
def looking_for_pictures() -> Iterator[None]:
    """timm's readers find all of EXTENSIONS meanwhile: some have no argument for it."""
    before = img_extensions.get_img_extensions()
    img_extensions.set_img_extensions(EXTENSIONS)
    try:
        yield
    finally:
        img_extensions.set_img_extensions(before)


def read_class_map(class_map: str | Mapping[str, int] | None, root: Path) -> dict[str, int] | None:
    """Labels by class name, from a text file with a name a line or as they are; None without.

    Args:
        class_map: a path, from the current directory or from `root`, or the labels themselves.
        root: of the data set.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no text file, or does not give each of N classes one of the labels 0 .. N-1.
    """
    if class_map is None:
        return None
    if isinstance(class_map, Mapping):
        labels = dict(class_map)
    else:
        found = next((path for path in (Path(class_map), root / class_map) if path.is_file()), None)
        if found is None:
            raise FileNotFoundError(f"data.class_map: no file {class_map}, neither here nor in {root}")
        if found.suffix != ".txt":
            raise ValueError(f"data.class_map must be a text file (.txt) with a class a line, got {found}")
        labels = load_class_map(str(found))
        # the line after the last
        labels.pop("", None)
    if sorted(labels.values()) != list(range(len(labels))):
        raise ValueError(f"data.class_map must give {len(labels)} classes the labels 0 .. {len(labels) - 1}, each once")
    return labels


def ordered(labels: Mapping[str, int]) -> list[str]:
    """Class names by their label."""
    return sorted(labels, key=lambda name: labels[name])
