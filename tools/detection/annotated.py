"""Images with annotated boxes, in the form that the readers of all formats give them: checked, clipped and counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.holding_out import Holdout
from ..data.samples import Location
from ..images import UnreadableImageError, read_image, read_size
from .outlines import check_outline


@dataclass
class Objects:
    """The annotated objects of an image.

    Attributes:
        boxes: float32 (N, 4), x1 y1 x2 y2 in pixels.
        labels: int64 (N), from 0.
        areas: float32 (N), areas of the objects in pixels, or of their boxes if unknown.
        crowds: bool (N), whether a box is around a crowd of objects (`iscrowd`), or an object does not count.
        outlines: N COCO segmentations, polygons or run lengths; None without masks.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    areas: NDArray[np.float32]
    crowds: NDArray[np.bool_]
    outlines: list[Any] | None = None


@dataclass
class Picture:
    """An image with the annotations read so far.

    Attributes:
        identity: unique id.
        file: name of its file in the folder of the images.
        size: annotated width and height; None if the image cannot be read.
        rows: box, label, area, whether it is a crowd, and outline of each object.
    """

    identity: int
    file: str
    size: tuple[int, int] | None
    rows: list[tuple[list[float], int, float, bool, Any]] = field(default_factory=list)


class AnnotatedImages:
    """Images with boxes.

    Boxes without width or height are left out, boxes that extend past the image are clipped, and areas that no
    object in the image can have are replaced by those of the boxes; `remarks` has the counts. Images without boxes are
    kept as examples of background.

    A reader adds to `pictures`, calls `add` for each object, and then `finish`.

    Args:
        folder: folder of the images.
        classes: names of the classes, in the order of the labels.
        annotation_files: the files that were read.
        with_masks: whether the outlines of the objects are read too.

    Attributes:
        pictures: the images, in order.
    """

    def __init__(
        self, folder: Path, classes: Sequence[str], annotation_files: Sequence[Path], with_masks: bool
    ) -> None:
        self.folder, self.classes, self.with_masks = folder, list(classes), with_masks
        self.annotation_files = list(annotation_files)
        self.pictures: list[Picture] = []
        self._objects: list[Objects] = []
        self._degenerate = self._clipped = self._areas = 0
        self._note = ""

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def location(self) -> Location:
        """The folder of the images, and the annotations."""
        return Location(str(self.folder), self.annotation_files)

    @property
    def remarks(self) -> str:
        """Counts of boxes that were left out or changed, and what was held out; empty if there is nothing."""
        counts = {
            "boxes without width or height left out": self._degenerate,
            "boxes clipped to the image": self._clipped,
            "areas replaced by those of the boxes": self._areas,
        }
        counted = [f"{count} {what}" for what, count in counts.items() if count]
        return ", ".join([*counted, self._note] if self._note else counted)

    def name(self, index: int) -> str:
        """The file of an image."""
        return str(self.folder / self.pictures[index].file)

    def identity(self, index: int) -> int:
        """The id of an image in the annotations."""
        return self.pictures[index].identity

    def objects(self, index: int) -> Objects:
        """The annotated objects of an image."""
        return self._objects[index]

    def shape(self, index: int) -> tuple[int, int]:
        """Annotated width and height of an image.

        Raises:
            UnreadableImageError: the image cannot be read.
        """
        return self.pictures[index].size or read_size(self.name(index))

    def picture(self, index: int, channels: int) -> Image.Image:
        """Reads an image, rotated by its EXIF orientation unless it was annotated as stored.

        Raises:
            UnreadableImageError: the image cannot be read, or its size differs from the annotated size.
        """
        name, annotated = self.name(index), self.pictures[index].size
        picture = read_image(name, channels)
        if picture.size == annotated:
            return picture
        stored = read_image(name, channels, upright=False)
        if stored.size != annotated:
            sizes = [" x ".join(map(str, size)) for size in (picture.size, annotated or (0, 0))]
            raise UnreadableImageError(f"{name} has {sizes[0]} pixels, but its annotated size is {sizes[1]}")
        return stored

    def add(
        self,
        picture: Picture,
        box: Sequence[float],
        label: int,
        where: str,
        *,
        area: float | None = None,
        has_area: bool = False,
        is_crowd: bool = False,
        outline: Any = None,
        form: str = "boxes are x, y, width, height in pixels",
    ) -> None:
        """Adds an object to an image.

        Args:
            picture: the image.
            box: x1 y1 x2 y2 in pixels.
            label: label of the class, from 0.
            where: location of the annotation, for messages.
            area: area in pixels; that of the box if it is None or impossible.
            has_area: whether the annotation has an area, so that it is counted if it is replaced.
            is_crowd: whether the box is around a crowd of objects, or the object does not count.
            outline: COCO segmentation.
            form: how the format writes boxes, for messages.

        Raises:
            ValueError: the box is outside of the image, or the outline is missing or cannot be drawn.
        """
        assert picture.size is not None, "an image of unknown size has no objects"
        width, height = picture.size
        left, top, right, bottom = box
        if right <= left or bottom <= top:
            self._degenerate += 1
            return
        if left >= width or top >= height or right <= 0 or bottom <= 0:
            raise ValueError(
                f"{where}: the box x={left:g} y={top:g} width={right - left:g} height={bottom - top:g} is outside of "
                f"{picture.file}, which is {width} x {height}; {form}"
            )
        inside = [max(left, 0.0), max(top, 0.0), min(right, float(width)), min(bottom, float(height))]
        self._clipped += inside != [left, top, right, bottom]
        if self.with_masks:
            if not outline:
                raise ValueError(
                    f"{where} has no outline, which segmenters and mask_rcnn need: boxes only are for other heads, "
                    "such as detector.head=faster_rcnn"
                )
            check_outline(outline, picture.size, where)
        if area is None or not 0 < area <= width * height:
            self._areas += has_area
            area = (inside[2] - inside[0]) * (inside[3] - inside[1])
        picture.rows.append((inside, label, area, is_crowd, outline if self.with_masks else None))

    def finish(self, place: Path, split: str = "", holdout: Holdout | None = None) -> AnnotatedImages:
        """Checks that there are boxes, keeps the images of a split, and returns the images.

        Args:
            place: where the annotations are, for messages.
            split: "train" or "val", with `holdout`.
            holdout: how validation images are held out of these; None if these are those of a split.

        Raises:
            ValueError: there are no boxes, or no image can be held out.
        """
        if all(is_crowd for picture in self.pictures for *_, is_crowd, _ in picture.rows):
            left_out = f"; {self.remarks}" if self.remarks else ""
            raise ValueError(f"{place} has no boxes, those of crowds (iscrowd) do not count{left_out}")
        if holdout is not None:
            kept = holdout.rows(split, self._rarest_classes(), place)
            self.pictures = [self.pictures[row] for row in kept]
            if split == "val":
                self._note = holdout.remark(place, "the images of each class (the rarest one in an image)")
        for picture in self.pictures:
            self._objects.append(self._pack(picture))
            picture.rows = []
        return self

    def _rarest_classes(self) -> list[int | None]:
        """The label of each image that the fewest images have; None for images without boxes."""
        labels = [{label for _, label, *_ in picture.rows} for picture in self.pictures]
        counts = Counter(label for found in labels for label in found)
        return [min(found, key=lambda label: (counts[label], label), default=None) for found in labels]

    def _pack(self, picture: Picture) -> Objects:
        boxes, labels, areas, crowds, outlines = zip(*picture.rows, strict=True) if picture.rows else ((),) * 5
        return Objects(
            np.asarray(boxes, dtype=np.float32).reshape(-1, 4),
            np.asarray(labels, dtype=np.int64),
            np.asarray(areas, dtype=np.float32),
            np.asarray(crowds, dtype=np.bool_),
            list(outlines) if self.with_masks else None,
        )
