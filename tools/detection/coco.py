"""Annotations in the COCO format, read and validated completely before training."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..files import read_json
from ..images import UnreadableImageError, read_image
from .outlines import check_outline
from .values import integer, number, shortened, switch, text

# largest number of files named in a message
_NAMED = 5


@dataclass
class Objects:
    """The annotated objects of an image.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2 in pixels.
        labels: int64 (N), from 0.
        areas: float32 (N), areas of the objects in pixels, or of their boxes if unknown.
        crowds: bool (N), whether a box is around a crowd of objects (`iscrowd`).
        outlines: N COCO segmentations, polygons or run lengths; None without masks.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowds: NDArray[np.bool_]
    outlines: list[Any] | None = None


@dataclass
class _Picture:
    """An entry of `images` with the annotations read so far."""

    identity: int
    file: str
    size: tuple[int, int]
    rows: list[tuple[list[float], int, float, bool, Any]] = field(default_factory=list)


class CocoImages:
    """Images with boxes in the COCO format.

    Boxes without width or height are left out, boxes that extend past the image are clipped, and areas that no
    object in the image can have are replaced by those of the boxes; `remarks` has the counts. Images without boxes are
    kept as examples of background. Numbers may also be floats and text, as some programs write them.

    Args:
        split: "train" or "val".
        root: folder of the data set.
        train_annotations: file of the training annotations, in `root`.
        train_images: folder of the training images, in `root`.
        val_annotations: file of the validation annotations, in `root`.
        val_images: folder of the validation images, in `root`.
        with_masks: read the outlines of the objects too.

    Raises:
        FileNotFoundError: a file or folder does not exist.
        ValueError: the annotations are inconsistent, or do not fit the images.
    """

    def __init__(
        self,
        split: str,
        root: str,
        train_annotations: str = "annotations/instances_train2017.json",
        train_images: str = "train2017",
        val_annotations: str = "annotations/instances_val2017.json",
        val_images: str = "val2017",
        with_masks: bool = False,
    ) -> None:
        annotations, images = (train_annotations, train_images) if split == "train" else (val_annotations, val_images)
        self.path, self.folder, self.with_masks = Path(root) / annotations, Path(root) / images, with_masks
        for path, is_there, key in (
            (self.path, self.path.is_file(), f"{split}_annotations"),
            (self.folder, self.folder.is_dir(), f"{split}_images"),
        ):
            if not is_there:
                raise FileNotFoundError(f"{path} does not exist: set data.root, and data.{key} if it has another name")
        self._degenerate = self._clipped = self._areas = 0
        content = _read_json(self.path)
        self.classes, self._labels = self._read_categories(content)
        pictures = self._read_pictures(content)
        for position, annotation in enumerate(_entries(content, "annotations", self.path)):
            self._add(pictures, annotation, f"{self.path}: annotations[{position}]")
        self._pictures = [(p.identity, p.file, p.size) for p in pictures.values()]
        self._objects = [self._pack(picture) for picture in pictures.values()]
        if all(objects.crowds.all() for objects in self._objects):
            left_out = f"; {self.remarks}" if self.remarks else ""
            raise ValueError(f"{self.path} has no boxes, those of crowds (iscrowd) do not count{left_out}")

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def remarks(self) -> str:
        """Counts of boxes that were left out or changed; empty if there are none."""
        counts = {
            "boxes without width or height left out": self._degenerate,
            "boxes clipped to the image": self._clipped,
            "areas replaced by those of the boxes": self._areas,
        }
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def name(self, index: int) -> str:
        """The file of an image."""
        return str(self.folder / self._pictures[index][1])

    def identity(self, index: int) -> int:
        """The id of an image in the annotations."""
        return self._pictures[index][0]

    def objects(self, index: int) -> Objects:
        """The annotated objects of an image."""
        return self._objects[index]

    def picture(self, index: int, channels: int) -> Image.Image:
        """Reads an image, rotated by its EXIF orientation unless it was annotated as stored.

        Raises:
            UnreadableImageError: the image cannot be read, or its size differs from the annotated size.
        """
        name, annotated = self.name(index), self._pictures[index][2]
        picture = read_image(name, channels)
        if picture.size == annotated:
            return picture
        stored = read_image(name, channels, upright=False)
        if stored.size != annotated:
            sizes = [" x ".join(map(str, size)) for size in (picture.size, annotated)]
            raise UnreadableImageError(f"{name} has {sizes[0]} pixels, but its annotated size is {sizes[1]}")
        return stored

    def _read_categories(self, content: Mapping[str, Any]) -> tuple[list[str], dict[int, int]]:
        names: dict[int, str] = {}
        for position, category in enumerate(_entries(content, "categories", self.path)):
            where = f"{self.path}: categories[{position}]"
            identity, name = integer(category, "id", where), text(category, "name", where)
            if identity in names:
                raise ValueError(f"{where} has the id {identity} of another category: ids must be unique")
            names[identity] = name
        if not names:
            raise ValueError(f"{self.path} has no categories: at least one is required")
        ordered = sorted(names)
        # ids may start anywhere and have gaps; labels are 0, 1, 2, ..
        return [names[identity] for identity in ordered], {identity: i for i, identity in enumerate(ordered)}

    def _read_pictures(self, content: Mapping[str, Any]) -> dict[int, _Picture]:
        pictures: dict[int, _Picture] = {}
        for position, entry in enumerate(_entries(content, "images", self.path)):
            where = f"{self.path}: images[{position}]"
            identity, file = integer(entry, "id", where), text(entry, "file_name", where)
            size = integer(entry, "width", where), integer(entry, "height", where)
            if identity in pictures:
                raise ValueError(f"{where} has the id {identity} of another image: ids must be unique")
            if min(size) < 1:
                raise ValueError(f"{where} must have a width and height of at least 1, got {size[0]} x {size[1]}")
            _check_inside(file, where)
            if "\\" in file and not os.path.isfile(self.folder / file):
                # written on Windows
                file = file.replace("\\", "/")
            pictures[identity] = _Picture(identity, file, size)
        if not pictures:
            raise ValueError(f"{self.path} has no images: at least one is required")
        # unlike Path.is_file, it takes any text
        missing = [p.file for p in pictures.values() if not os.path.isfile(self.folder / p.file)]
        if missing:
            raise FileNotFoundError(
                f"{len(missing)} of the {len(pictures)} images of {self.path} are not in {self.folder}: "
                f"{', '.join(map(shortened, missing[:_NAMED]))}{', ...' if len(missing) > _NAMED else ''}"
            )
        return pictures

    def _add(self, pictures: Mapping[int, _Picture], annotation: Mapping[str, Any], where: str) -> None:
        picture = pictures.get(integer(annotation, "image_id", where))
        category = integer(annotation, "category_id", where)
        if picture is None:
            raise ValueError(f"{where} has the image id {annotation['image_id']}, which is not among the images")
        if category not in self._labels:
            known = ", ".join(map(str, sorted(self._labels)[:20]))
            raise ValueError(f"{where} has the category id {category}, which is not among the categories: {known}")
        box = self._clip(_box(annotation, where), picture, where)
        if box is None:
            return
        outline = annotation.get("segmentation")
        if self.with_masks and not outline:
            raise ValueError(f"{where} has no segmentation: mask_rcnn needs outlines, use faster_rcnn for boxes only")
        if self.with_masks:
            check_outline(outline, picture.size, where)
        area = number(annotation.get("area"))
        if area is None or not 0 < area <= picture.size[0] * picture.size[1]:
            self._areas += "area" in annotation
            area = (box[2] - box[0]) * (box[3] - box[1])
        is_crowd = switch(annotation, "iscrowd", where)
        picture.rows.append((box, self._labels[category], area, is_crowd, outline if self.with_masks else None))

    def _clip(self, box: list[float], picture: _Picture, where: str) -> list[float] | None:
        """Converts x y width height to x1 y1 x2 y2, clipped to the image; None for a box without width or height."""
        left, top, width, height = box
        if width <= 0 or height <= 0:
            self._degenerate += 1
            return None
        right, bottom = left + width, top + height
        limits = picture.size
        if left >= limits[0] or top >= limits[1] or right <= 0 or bottom <= 0:
            raise ValueError(
                f"{where}: the box x={left:g} y={top:g} width={width:g} height={height:g} is outside of "
                f"{picture.file}, which is {limits[0]} x {limits[1]}; boxes are x, y, width, height in pixels"
            )
        inside = [max(left, 0.0), max(top, 0.0), min(right, float(limits[0])), min(bottom, float(limits[1]))]
        self._clipped += inside != [left, top, right, bottom]
        return inside

    def _pack(self, picture: _Picture) -> Objects:
        boxes, labels, areas, crowds, outlines = zip(*picture.rows, strict=True) if picture.rows else ((),) * 5
        return Objects(
            np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
            np.asarray(labels, dtype=np.int64),
            np.asarray(areas, dtype=np.float32),
            np.asarray(crowds, dtype=np.bool_),
            list(outlines) if self.with_masks else None,
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
