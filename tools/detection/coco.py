"""Annotations in the COCO format, read and validated completely before training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from ..data.holding_out import Holdout
from ..files import read_json
from .annotated import AnnotatedImages, Picture
from .places import coco_files, image_folder
from .values import integer, number, shortened, switch, text

# largest number of files named in a message
_NAMED = 5


def coco(
    split: str,
    root: str,
    train_annotations: str | None = None,
    train_images: str | None = None,
    val_annotations: str | None = None,
    val_images: str | None = None,
    val_share: float = 0.2,
    val_seed: int = 0,
    with_masks: bool = False,
) -> AnnotatedImages:
    """Opens images with boxes in the COCO format. Numbers may also be floats and text, as some programs write them.

    Files are found by their usual names: a JSON file with the name of the split in its name or in that of its folder,
    and a folder that has its images. Without annotations for validation, a part of the others is held out.

    Args:
        split: "train", "val", or the name of another split.
        root: folder of the data set.
        train_annotations: file of the training annotations, in `root`.
        train_images: folder of the training images, in `root`.
        val_annotations: file of the validation annotations, in `root`.
        val_images: folder of the validation images, in `root`.
        val_share: share of the images of each class that is held out where there are no annotations for validation.
        val_seed: seed of that choice.
        with_masks: read the outlines of the objects too.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: the annotations are inconsistent, or do not fit the images.
    """
    annotations = {"train": train_annotations, "val": val_annotations}
    path, is_shared = coco_files(Path(root), split, annotations)
    content = _read_json(path)
    given = {"train": train_images, "val": train_images if is_shared else val_images}.get(split)
    folder = _folder(Path(root), path, content, split, given)
    classes, labels = _read_categories(content, path)
    images = AnnotatedImages(folder, classes, [path], with_masks)
    pictures = _read_pictures(content, path, folder)
    images.pictures = list(pictures.values())
    for position, annotation in enumerate(_entries(content, "annotations", path)):
        _add(images, pictures, labels, annotation, f"{path}: annotations[{position}]")
    return images.finish(path, split, Holdout(val_share, val_seed) if is_shared else None)


def _folder(root: Path, path: Path, content: Mapping[str, Any], split: str, given: str | None) -> Path:
    """Returns the folder of the images, which is looked for by the first of them."""
    if given is not None:
        if not (root / given).is_dir():
            raise FileNotFoundError(f"{root / given} does not exist: set data.root, and data.{split}_images")
        return root / given
    files = [entry.get("file_name") for entry in _entries(content, "images", path)[:_NAMED]]
    return image_folder(root, path, split, [file for file in files if isinstance(file, str)])


def _read_categories(content: Mapping[str, Any], path: Path) -> tuple[list[str], dict[int, int]]:
    names: dict[int, str] = {}
    for position, category in enumerate(_entries(content, "categories", path)):
        where = f"{path}: categories[{position}]"
        identity, name = integer(category, "id", where), text(category, "name", where)
        if identity in names:
            raise ValueError(f"{where} has the id {identity} of another category: ids must be unique")
        names[identity] = name
    if not names:
        raise ValueError(f"{path} has no categories: at least one is required")
    ordered = sorted(names)
    # ids may start anywhere and have gaps; labels are 0, 1, 2, ..
    return [names[identity] for identity in ordered], {identity: i for i, identity in enumerate(ordered)}


def _read_pictures(content: Mapping[str, Any], path: Path, folder: Path) -> dict[int, Picture]:
    pictures: dict[int, Picture] = {}
    for position, entry in enumerate(_entries(content, "images", path)):
        where = f"{path}: images[{position}]"
        identity, file = integer(entry, "id", where), text(entry, "file_name", where)
        size = integer(entry, "width", where), integer(entry, "height", where)
        if identity in pictures:
            raise ValueError(f"{where} has the id {identity} of another image: ids must be unique")
        if min(size) < 1:
            raise ValueError(f"{where} must have a width and height of at least 1, got {size[0]} x {size[1]}")
        _check_inside(file, where)
        if "\\" in file and not os.path.isfile(folder / file):
            # written on Windows
            file = file.replace("\\", "/")
        pictures[identity] = Picture(identity, file, size)
    if not pictures:
        raise ValueError(f"{path} has no images: at least one is required")
    # unlike Path.is_file, it takes any text
    missing = [p.file for p in pictures.values() if not os.path.isfile(folder / p.file)]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(pictures)} images of {path} are not in {folder}: "
            f"{', '.join(map(shortened, missing[:_NAMED]))}{', ...' if len(missing) > _NAMED else ''}"
        )
    return pictures


def _add(
    images: AnnotatedImages,
    pictures: Mapping[int, Picture],
    labels: Mapping[int, int],
    annotation: Mapping[str, Any],
    where: str,
) -> None:
    picture = pictures.get(integer(annotation, "image_id", where))
    category = integer(annotation, "category_id", where)
    if picture is None:
        raise ValueError(f"{where} has the image id {annotation['image_id']}, which is not among the images")
    if category not in labels:
        known = ", ".join(map(str, sorted(labels)[:20]))
        raise ValueError(f"{where} has the category id {category}, which is not among the categories: {known}")
    left, top, width, height = _box(annotation, where)
    images.add(
        picture,
        (left, top, left + width, top + height),
        labels[category],
        where,
        area=number(annotation.get("area")),
        has_area="area" in annotation,
        is_crowd=switch(annotation, "iscrowd", where),
        outline=annotation.get("segmentation"),
    )


def _read_json(path: Path) -> Mapping[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a dict of images, annotations and categories, got a {type(content).__name__}")
    return content


def _entries(content: Mapping[str, Any], key: str, path: Path) -> list[Mapping[str, Any]]:
    entries = content.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError(f"{path}: {key} must be a list of dicts")
    return entries


def _box(annotation: Mapping[str, Any], where: str) -> list[float]:
    given = annotation.get("bbox")
    box = [x for x in map(number, given) if x is not None] if isinstance(given, list) and len(given) == 4 else []
    if len(box) < 4:
        raise ValueError(f"{where}: bbox must be four numbers, x, y, width and height, got {shortened(given)}")
    return box


def _check_inside(file: str, where: str) -> None:
    # the file may be written on one system and read on another
    for path in (PurePosixPath(file), PureWindowsPath(file)):
        if path.is_absolute() or path.drive or ".." in path.parts or not path.parts:
            raise ValueError(f"{where}: file_name must be inside the folder of the images, got {shortened(file)}")
