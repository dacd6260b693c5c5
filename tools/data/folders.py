"""Images in one folder per class, also in tar files."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm.data.readers import create_reader
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from ..files import listed
from ..images import EXTENSIONS
from .readers import SPLIT_NAMES, ReadPictures, looking_for_pictures, ordered, read_class_map


def imagefolder(
    split: str,
    root: str | None = None,
    train: str | None = None,
    val: str | None = None,
    class_map: str | Mapping[str, int] | None = None,
) -> ReadPictures:
    """Opens images in one folder per class; the class of an image is the name of its parent folder.

    The splits are `root/train` (or `training`) and `root/val` (or `valid`, `validation`, `eval`, `evaluation`), each a
    folder or a tar file, unless `train` and `val` are given. A folder may contain class folders or a tar file per
    class. Tar files are read without unpacking them.

    Args:
        split: "train" or "val".
        root: folder of both splits.
        train: folder or tar file of the training images.
        val: folder or tar file of the validation images.
        class_map: the classes to read and their labels: a text file with one class name per line, or a dict of labels
            by class name. By default the classes are all folders in natural order.

    Raises:
        FileNotFoundError: a folder or a split does not exist.
        ValueError: there are no images, a class has no images, or an image has no class.
    """
    place = _find(split, root, {"train": train, "val": val}[split])
    labels = read_class_map(class_map, Path(root) if root is not None else place.parent)
    reader, labels = _read(place, labels)
    if "" in labels:
        raise ValueError(
            f"{place} contains images outside of class folders: move each image to a folder named after its class"
        )
    if place.is_dir() and (empty := _empty_folders(place, reader, labels, class_map is not None)):
        raise ValueError(
            f"class folders without images ({_extensions()}) in {place}: {listed(empty)}; add images or remove them"
        )
    return ReadPictures(reader, ordered(labels), str(place))


def _find(split: str, root: str | None, given: str | None) -> Path:
    if given is not None:
        place = Path(given)
        if not place.exists():
            raise FileNotFoundError(f"data.{split}: folder or tar file {place} does not exist")
        return place
    if root is None:
        raise ValueError(
            f"data needs the location of its images: set data.root, which contains {split}, or data.{split}"
        )
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data.root: folder {root} does not exist")
    for name in SPLIT_NAMES[split]:
        for place in (Path(root, name), Path(root, f"{name}.tar")):
            if place.exists():
                return place
    there = listed(sorted(path.name for path in Path(root).iterdir())) or "nothing"
    raise FileNotFoundError(
        f"data.root: {root} has no folder or tar file {' or '.join(SPLIT_NAMES[split])}, found {there}: rename it, or "
        f"set data.{split}"
    )


def _read(place: Path, labels: dict[str, int] | None) -> tuple[Any, dict[str, int]]:
    if place.is_file() and place.suffix != ".tar":
        raise ValueError(f"{place} is neither a folder nor a tar file (.tar)")
    is_tar = place.is_file() or any(place.glob("*.tar"))
    try:
        with looking_for_pictures():
            if is_tar:
                # no cached tar files: the copies in the workers would share one file position
                reader = ReaderImageInTar(str(place), class_map=labels or "", cache_tarfiles=False, cache_tarinfo=False)
                return reader, reader.class_name_to_idx
            reader = create_reader("", root=str(place), class_map=labels)
            return reader, reader.class_to_idx
    except tarfile.TarError as error:
        raise ValueError(f"{place}: not a tar file, or damaged") from error
    # timm raises one of these if there are no images
    except (RuntimeError, ValueError) as error:
        of_classes = f" of the classes {listed(list(labels))}" if labels else ""
        raise ValueError(
            f"there are no images{of_classes} in {place}: expected one folder per class with files ending in "
            f"{_extensions()}"
        ) from error


def _empty_folders(place: Path, reader: Any, labels: Mapping[str, int], is_chosen: bool) -> list[str]:
    """Returns the class folders without images, which timm would silently ignore."""
    if isinstance(reader, ReaderImageInTar):
        return []
    start = len(str(place)) + 1
    filled = {path[start:].replace("\\", "/").partition("/")[0] for path, _ in reader.samples}
    folders = [path.name for path in place.iterdir() if path.is_dir() and not path.name.startswith((".", "_"))]
    return sorted(name for name in folders if name not in filled and (not is_chosen or name in labels))


def _extensions() -> str:
    return ", ".join(EXTENSIONS)
