"""Where data sets of boxes have their annotations and images: the usual names of files and folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ..data.splits import SPLIT_NAMES, names_of
from ..files import listed
from ..finding import Skipped, find_images, is_hidden

# of the files of COCO itself, those with boxes
_OF_BOXES = "instances"
_IMAGES = ("images", "jpegimages", "imgs", "data")


def coco_files(root: Path, split: str, given: Mapping[str, str | None]) -> tuple[Path, bool]:
    """Finds the COCO annotations of a split.

    Args:
        root: folder of the data set.
        split: "train", "val", or the name of another split.
        given: the file of "train" and of "val" in `root`; None to look for it.

    Returns:
        The file, and whether training and validation share it, because there is none for validation.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is not clear which file it is.
    """
    check_root(root)
    is_shared = split in given and given["val"] is None and _annotations(root, "val") is None
    source = "train" if is_shared else split
    if (name := given.get(source)) is not None:
        return _existing(root, name, source), is_shared
    found = _annotations(root, source) or (_annotations(root, None) if is_shared else None)
    return _required(found, root, source), is_shared


def _existing(root: Path, name: str, split: str) -> Path:
    if not (root / name).is_file():
        raise FileNotFoundError(
            f"{root / name} does not exist: set data.root, and data.{split}_annotations if it has another name"
        )
    return root / name


def _required(found: Path | None, root: Path, split: str) -> Path:
    if found is None:
        key = f", or data.{split}_annotations" if split in ("train", "val") else ""
        raise FileNotFoundError(
            f"{root} has no COCO annotations (.json) for {split}, found {there(root)}: set data.root{key}"
            f"{other_format(root, 'coco')}"
        )
    return found


def _annotations(root: Path, split: str | None) -> Path | None:
    """Returns the JSON file whose name, or folder, has the name of a split; with None, the one without any split."""
    wanted = SPLIT_NAMES if split is None else names_of(split.lower())
    files = [path for pattern in ("*.json", "*/*.json") for path in sorted(root.glob(pattern))]
    files = [path for path in files if not is_hidden(path.relative_to(root))]
    # the name of a file says more than that of its folder
    named = [path for path in files if _has_name(path.stem, wanted)] or [
        path for path in files if _has_name(path.parent.name, wanted) and path.parent != root
    ]
    if split is None:
        named = [path for path in files if not _has_name(str(path.relative_to(root)), wanted)]
    chosen = [path for path in named if _OF_BOXES in path.stem] or named
    if len(chosen) > 1:
        which = "train" if split is None else split
        raise ValueError(
            f"{root} has {len(chosen)} files that may be the annotations for {which}: "
            f"{listed([str(path.relative_to(root)) for path in chosen], 4)}; set data.train_annotations and "
            "data.val_annotations"
        )
    return chosen[0] if chosen else None


def image_folder(root: Path, annotations: Path, split: str, files: Sequence[str]) -> Path:
    """Finds the folder that has the images of an annotation file.

    Args:
        root: folder of the data set.
        annotations: the annotation file.
        split: the split.
        files: some of the images, as the annotations name them.

    Returns:
        The first folder with a usual name that has one of them, or, if none has, the first that exists.
    """
    names = [name for name in re.split(r"[^0-9A-Za-z]+", annotations.stem) if _has_name(name, SPLIT_NAMES)]
    names += [name for name in names_of(split) if name not in names]
    usual = [folder for name in names for folder in (name, f"images/{name}", f"{name}/images")]
    folders = [root / name for name in (*usual, *_IMAGES)] + [annotations.parent, root]
    folders += [annotations.parent / name for name in _IMAGES]
    for folder in folders:
        if any(os.path.isfile(folder / file.replace("\\", "/")) for file in files):
            return folder
    # what is wrong with the names is reported where they are read
    return next(folder for folder in folders if folder.is_dir())


def check_root(root: Path) -> None:
    """Checks that a folder exists.

    Raises:
        FileNotFoundError: it does not.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"data.root: folder {root} does not exist")


def there(root: Path) -> str:
    """Lists what is in a folder, for messages."""
    return listed(sorted(path.name for path in root.iterdir() if not is_hidden(path.name))) or "nothing"


def folder_named(root: Path, names: Iterable[str]) -> Path | None:
    """Returns the first folder in `root` with one of some names, in any capitals; None if there is none."""
    found = {path.name.lower(): path for path in sorted(root.iterdir()) if path.is_dir()}
    return next((found[name] for name in names if name in found), None)


def images_in(folder: Path) -> list[Path]:
    """Returns the images of a folder and its subfolders, sorted, see `find_images`.

    Raises:
        ValueError: a folder cannot be read.
    """
    return sorted(map(Path, find_images(folder, Skipped())))


def _has_name(text: str, names: Sequence[str]) -> bool:
    return any(word in names for word in re.split(r"[^a-z]+", text.lower()))


def other_format(root: Path, given: str) -> str:
    """Says what `data.name` is for the files of a folder, if they look like another format than the given one.

    Args:
        root: folder of the data set.
        given: "coco", "yolo" or "voc".
    """
    patterns = {"yolo": ("*.y*ml",), "voc": ("*.xml", "*/*.xml"), "coco": ("*.json", "*/*.json")}
    for name, title in (("yolo", "YOLO"), ("voc", "Pascal VOC"), ("coco", "COCO")):
        has_files = any(not is_hidden(path.relative_to(root)) for one in patterns[name] for path in root.glob(one))
        if name != given and (has_files or (name == "yolo" and folder_named(root, ("labels",)))):
            return f"; it looks like {title}, for which data.name={name} is set"
    return ""
