"""Images in one folder per class, also in tar files."""

from __future__ import annotations

import os
import tarfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from timm.data.readers.reader_image_in_tar import ReaderImageInTar
from timm.utils.misc import natural_key

from ..files import listed, plural
from ..finding import Skipped, find_images, is_hidden
from ..images import EXTENSIONS, open_regular
from .holding_out import Holdout, Part
from .readers import ReadPictures, looking_for_pictures, ordered, read_class_map
from .splits import check_no_splits, place_of


class FolderReader:
    """Images in one folder per class, with the interface of timm's readers.

    Hidden files and folders are skipped, links are followed.

    Args:
        root: folder of the class folders.
        labels: the classes to read and their labels; by default all folders with images, in natural order.
    """

    def __init__(self, root: Path, labels: Mapping[str, int] | None) -> None:
        self.root, self.skipped = root, Skipped()
        found = sorted(find_images(root, self.skipped), key=natural_key)
        folders = [os.path.dirname(path) for path in found]
        classes = ["" if folder == str(root) else os.path.basename(folder) for folder in folders]
        self.found = sorted(set(classes), key=natural_key)
        self.labels = dict(labels) if labels else {name: label for label, name in enumerate(self.found)}
        rows = zip(found, classes, strict=True)
        self.samples = [(path, self.labels[name]) for path, name in rows if name in self.labels]
        self.targets = [label for _, label in self.samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        path, label = self.samples[index]
        return open_regular(path), label

    def filename(self, index: int) -> str:
        """Returns the path of an image, relative to the root."""
        return os.path.relpath(self.samples[index][0], self.root)


class TarReader(ReaderImageInTar):
    """Images in tar files, without the hidden ones. The arguments are those of FolderReader."""

    samples: Any
    targets: Any

    def __init__(self, root: Path, labels: Mapping[str, int] | None) -> None:
        # no cached tar files: the copies in the workers would share one file position
        super().__init__(str(root), class_map="", cache_tarfiles=False, cache_tarinfo=False)
        self.skipped = Skipped()
        hidden = [is_hidden(member.path) for member, *_ in self.samples]
        self.skipped.hidden.update(member.name for member, *_ in self.samples[hidden])
        self.samples, self.targets = self.samples[~np.asarray(hidden)], self.targets[~np.asarray(hidden)]
        names = [self.class_idx_to_name[label] for label in self.targets]
        self.found = sorted(set(names), key=natural_key)
        self.labels = dict(labels) if labels else {name: label for label, name in enumerate(self.found)}
        chosen = [name in self.labels for name in names]
        self.samples = self.samples[chosen]
        self.targets = np.asarray([self.labels[name] for name in names if name in self.labels])


def imagefolder(
    split: str,
    root: str | None = None,
    train: str | None = None,
    val: str | None = None,
    class_map: str | Mapping[str, int] | None = None,
    val_share: float = 0.2,
    val_seed: int = 0,
) -> ReadPictures:
    """Opens images in one folder per class; the class of an image is the name of its parent folder.

    The splits are `root/train` (or `training`) and `root/val` (or `valid`, `validation`, `eval`, `evaluation`), each a
    folder or a tar file, unless `train` and `val` are given. A folder may contain class folders or a tar file per
    class. Tar files are read without unpacking them. Hidden files and folders, such as `.ipynb_checkpoints`, are
    skipped and counted. Without a split for validation, a part of each class is held out of the training images, which
    are then also taken from class folders in `root` itself.

    Args:
        split: "train", "val", or the name of another split.
        root: folder of both splits.
        train: folder or tar file of the training images.
        val: folder or tar file of the validation images.
        class_map: the classes to read and their labels: a text file with one class name per line, or a dict of labels
            by class name. By default the classes are all folders in natural order.
        val_share: share of each class that is held out where there is no split for validation.
        val_seed: seed of that choice.

    Raises:
        FileNotFoundError: a folder or a split does not exist.
        ValueError: there are no images, a class has no images, or an image has no class.
    """
    place, is_shared = place_of(split, root, {"train": train, "val": val})
    labels = read_class_map(class_map, Path(root) if root is not None else place.parent)
    reader = _read(place, labels)
    if "" in reader.labels:
        raise ValueError(
            f"{place} contains images outside of class folders: move each image to a folder named after its class"
        )
    if class_map is not None:
        _check_names(reader, place)
    if isinstance(reader, FolderReader) and (empty := _empty_folders(place, reader, class_map is not None)):
        raise ValueError(
            f"class folders without images ({_extensions()}) in {place}: {listed(empty)}; add images or remove them"
        )
    classes, remarks = ordered(reader.labels), _remarks(reader)
    if not is_shared:
        return ReadPictures(reader, classes, str(place), remarks)
    if place == Path(root or "."):
        check_no_splits(map(reader.filename, range(len(reader))), place)
    holdout = Holdout(val_share, val_seed)
    part = Part(reader, holdout.rows(split, [int(label) for label in reader.targets], place))
    if split == "val":
        remarks = holdout.remark(place, "the images of each class")
    return ReadPictures(part, classes, str(place), remarks)


def _read(place: Path, labels: dict[str, int] | None) -> FolderReader | TarReader:
    if place.is_file() and place.suffix != ".tar":
        raise ValueError(f"{place} is neither a folder nor a tar file (.tar)")
    is_tar = place.is_file() or any(not is_hidden(path.name) for path in place.glob("*.tar"))
    reader: FolderReader | TarReader | None
    try:
        with looking_for_pictures():
            reader = TarReader(place, labels) if is_tar else FolderReader(place, labels)
    except tarfile.TarError as error:
        raise ValueError(f"{place}: not a tar file, or damaged") from error
    # timm unpacks an empty list if a tar file has no images
    except ValueError as error:
        if not is_tar:
            raise
        reader, cause = None, error
    if reader is None or not len(reader):
        of_classes = f" of the classes {listed(list(labels))}" if labels else ""
        if labels and reader is not None and reader.found:
            raise ValueError(
                f"data.class_map: no folder in {place} has the name of a class, they are {listed(reader.found, 4)}, "
                f"the classes are {listed(list(labels), 4)}"
            )
        raise ValueError(
            f"there are no images{of_classes} in {place}: expected one folder per class with files ending in "
            f"{_extensions()}{f'; {reader.skipped.remarks}' if reader is not None and reader.skipped.remarks else ''}"
        ) from (cause if reader is None else None)
    return reader


def _check_names(reader: FolderReader | TarReader, place: Path) -> None:
    """Rejects a class map whose names differ from those of the folders in a way that is easily overlooked."""
    unread = {_folded(name): name for name in reader.found if name not in reader.labels}
    for name in reader.labels:
        if name not in reader.found and (similar := unread.get(_folded(name))):
            raise ValueError(
                f"data.class_map names the class {name!r}, but its folder in {place} is {similar!r}: capitals, spaces "
                "and accents must be the same"
            )


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()


def _remarks(reader: FolderReader | TarReader) -> str:
    without = [name for name in reader.labels if name not in reader.found]
    unread = [name for name in reader.found if name and name not in reader.labels]
    parts = (
        reader.skipped.remarks,
        f"{plural(len(without), 'class')} of data.class_map without images ({listed(without, 4)})" if without else "",
        f"{plural(len(unread), 'folder')} left out by data.class_map ({listed(unread, 4)})" if unread else "",
    )
    return ", ".join(part for part in parts if part)


def _empty_folders(place: Path, reader: FolderReader, is_chosen: bool) -> list[str]:
    """Returns the class folders without images, which would silently be no classes."""
    start = len(str(place)) + 1
    filled = {path[start:].replace("\\", "/").partition("/")[0] for path, _ in reader.samples}
    folders = [
        path.name for path in place.iterdir() if path.is_dir() and not is_hidden(path.name) and path.name[0] != "_"
    ]
    return sorted(name for name in folders if name not in filled and (not is_chosen or name in reader.labels))


def _extensions() -> str:
    return ", ".join(EXTENSIONS)
