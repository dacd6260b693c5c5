"""Pictures in folders named after their classes, as they are or in tar files."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.data.readers import create_reader
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from ..files import listed
from .readers import EXTENSIONS, SPLIT_NAMES, ReadPictures, looking_for_pictures, ordered, read_class_map


def imagefolder(
    split: str,
    root: str | None = None,
    train: str | None = None,
    val: str | None = None,
    class_map: str | Mapping[str, int] | None = None,
) -> ReadPictures:
    """A folder of pictures per class; the class is the last folder on the way to a picture.

    Without `train` and `val`, these are `root/train` (or `training`) and `root/val` (or `valid`, `validation`, `eval`,
    `evaluation`), each a folder, or a tar file of that name. A folder may hold folders of classes or a tar file per
    class. Tar files are read in place: nothing is unpacked.

    Args:
        split: "train" or "val".
        root: of both splits.
        train: folder or tar file to train on.
        val: folder or tar file to judge by.
        class_map: the classes to read and their labels: a text file with a name a line, or labels by name. Without it
            the classes are the folders there are, in their natural order.

    Raises:
        FileNotFoundError: a folder, or the split in it, is not there.
        ValueError: there are no pictures, a class has none, or a picture is in no class.
    """
    place = _find(split, root, {"train": train, "val": val}[split])
    labels = read_class_map(class_map, Path(root) if root is not None else place.parent)
    reader, labels = _read(place, labels)
    if "" in labels:
        raise ValueError(f"pictures lie directly in {place}: put each into a folder named after its class")
    if place.is_dir() and (empty := _empty_folders(place, reader, labels, class_map is not None)):
        raise ValueError(f"{listed(empty)} in {place} hold no pictures ({_extensions()}): fill or remove them")
    return ReadPictures(reader, ordered(labels), str(place))


def _find(split: str, root: str | None, given: str | None) -> Path:
    if given is not None:
        place = Path(given)
        if not place.exists():
            raise FileNotFoundError(f"data.{split}: there is no folder or tar file {place}")
        return place
    if root is None:
        raise ValueError(f"data lacks where its pictures are: give root, with {split} in it, or {split}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data.root: there is no folder {root}")
    for name in SPLIT_NAMES[split]:
        for place in (Path(root, name), Path(root, f"{name}.tar")):
            if place.exists():
                return place
    there = listed(sorted(path.name for path in Path(root).iterdir())) or "nothing"
    raise FileNotFoundError(
        f"data.root: {root} has no folder or tar file {' or '.join(SPLIT_NAMES[split])}, but {there}: rename, or give "
        f"data.{split}"
    )


def _read(place: Path, labels: dict[str, int] | None) -> tuple[Any, dict[str, int]]:
    if place.is_file() and place.suffix != ".tar":
        raise ValueError(f"{place} is neither a folder nor a tar file (.tar)")
    is_tar = place.is_file() or any(place.glob("*.tar"))
    try:
        with looking_for_pictures():
            if is_tar:
                # an open tar file that is kept would share its position with the copies of it in workers
                reader = ReaderImageInTar(str(place), class_map=labels or "", cache_tarfiles=False, cache_tarinfo=False)
                return reader, reader.class_name_to_idx
            reader = create_reader("", root=str(place), class_map=labels)
            return reader, reader.class_to_idx
    except tarfile.TarError as error:
        raise ValueError(f"{place}: a tar file is damaged, or none") from error
    # timm says so of a folder and stumbles over a tar file
    except (RuntimeError, ValueError) as error:
        of_classes = f" of the classes {listed(list(labels))}" if labels else ""
        raise ValueError(
            f"there are no pictures{of_classes} in {place}: they belong into a folder per class and end in "
            f"{_extensions()}"
        ) from error


def _empty_folders(place: Path, reader: Any, labels: Mapping[str, int], is_chosen: bool) -> list[str]:
    """Folders of the classes that no picture is in: most likely a mistake, and no class of their own for timm."""
    if isinstance(reader, ReaderImageInTar):
        return []
    start = len(str(place)) + 1
    filled = {path[start:].replace("\\", "/").partition("/")[0] for path, _ in reader.samples}
    folders = [path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    return sorted(name for name in folders if name not in filled and (not is_chosen or name in labels))


def _extensions() -> str:
    return ", ".join(EXTENSIONS)
