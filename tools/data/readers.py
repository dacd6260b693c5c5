"""Images from timm's readers, and class maps."""

from __future__ import annotations

import codecs
import os
import tarfile
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from timm.data.readers import img_extensions

from ..files import listed
from ..images import EXTENSIONS, UnreadableImageError
from .samples import Location


class ReadPictures:
    """Images with one class each, from a reader of timm.

    Args:
        reader: has `reader[index]`, which returns a file and its label, `filename(index)`, and `targets`, all labels.
        classes: class names, in the order of the labels.
        root: prefix of the reader's file names in messages.
        remarks: what was skipped; empty if nothing was.
    """

    def __init__(self, reader: Any, classes: Sequence[str], root: str, remarks: str = "") -> None:
        self.reader, self.classes, self.root, self.remarks = reader, classes, root, remarks

    def __len__(self) -> int:
        return len(self.reader)

    @property
    def location(self) -> Location:
        """Its folder or tar files."""
        return Location(self.root)

    @property
    def labels(self) -> Collection[int]:
        """The label of each image."""
        labels: Collection[int] = self.reader.targets
        return labels

    def open(self, index: int) -> tuple[BinaryIO, int]:
        """Opens the file of an image and returns it with its label.

        Raises:
            UnreadableImageError: the file does not exist, or cannot be read.
        """
        try:
            file, label = self.reader[index]
        # timm raises the last two for a row of a table without an image
        except (OSError, tarfile.TarError, ValueError, AssertionError, TypeError) as error:
            reason = str(error) or "there is no image"
            raise UnreadableImageError(f"{self.name(index)} cannot be opened: {reason}") from error
        return file, int(label)

    def name(self, index: int) -> str:
        """Returns the name of an image for messages."""
        return f"{self.root}/{self.reader.filename(index)}"


@contextmanager
def looking_for_pictures() -> Iterator[None]:
    """Sets the extensions of timm's readers to EXTENSIONS within the context; some have no argument for it."""
    before = img_extensions.get_img_extensions()
    img_extensions.set_img_extensions(EXTENSIONS)
    try:
        yield
    finally:
        img_extensions.set_img_extensions(before)


def read_class_map(class_map: str | Mapping[str, int] | None, root: Path) -> dict[str, int] | None:
    """Reads labels by class name from a text file with one class name per line; None without a class map.

    Args:
        class_map: a path, relative to the current directory or to `root`, or a dict of labels by class name.
        root: folder of the data set.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not a text file or names a class twice, or the labels of N classes are not 0 .. N-1.
    """
    if class_map is None:
        return None
    if isinstance(class_map, Mapping):
        labels = dict(class_map)
    else:
        found = next((path for path in (Path(class_map), root / class_map) if os.path.isfile(path)), None)
        if found is None:
            raise FileNotFoundError(f"data.class_map: file {class_map} does not exist, neither here nor in {root}")
        if found.suffix.lower() != ".txt":
            raise ValueError(f"data.class_map must be a text file (.txt) with one class name per line, got {found}")
        names = [line.strip() for line in _read_text(found).splitlines() if line.strip()]
        labels = {name: label for label, name in enumerate(names)}
        if len(labels) < len(names):
            repeated = [name for name, count in Counter(names).items() if count > 1]
            raise ValueError(f"data.class_map: {found} names a class twice: {listed(repeated)}")
    if not labels:
        raise ValueError(f"data.class_map must name at least one class, got {class_map}")
    if sorted(labels.values()) != list(range(len(labels))):
        raise ValueError(
            f"data.class_map must map its {len(labels)} classes to the labels 0 .. {len(labels) - 1}, each once"
        )
    return labels


def _read_text(path: Path) -> str:
    """Reads a text file in UTF-8, or in UTF-16 with a byte-order mark, as Windows programs write it."""
    content = path.read_bytes()
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"data.class_map: {path} must be text in UTF-8: {error}") from error
    if "\0" in text:
        raise ValueError(f"data.class_map: {path} must be text in UTF-8: it contains null bytes")
    return text


def ordered(labels: Mapping[str, int]) -> list[str]:
    """Returns the class names in the order of their labels."""
    return sorted(labels, key=lambda name: labels[name])
