"""Data sets of images with boxes for the `data` of a detection recipe.

| `data.name`        | source                                                                                        |
|--------------------|-----------------------------------------------------------------------------------------------|
| `coco`             | COCO's JSON files, such as `root/annotations/instances_train2017.json` and `root/train2017`   |
| `yolo`             | YOLO's text files, such as `root/labels/train/*.txt` and `root/images/train`                  |
| `voc`              | Pascal VOC's XML files, such as `root/Annotations/*.xml` and `root/JPEGImages`                |
| `digits_on_canvas` | scikit-learn's handwritten digits at random positions, generated on the fly                   |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..data.samples import Pictures, Samples, collate
from ..data.sources import open_source
from ..data.transforms import augmentation
from ..images import apply_transform
from .annotated import Objects
from .canvases import DigitsOnCanvas
from .coco import coco
from .outlines import draw_masks
from .voc import voc
from .yolo import yolo

# keys of `data` for the detector, which normalises and resizes
NORMALISATION = ("mean", "std")

# smallest side of a box in pixels: smaller boxes were cut off by an augmentation and are removed
_SMALLEST_SIDE = 1.0

# largest ratio of the sides of an image: a detector resizes a thinner one to less than a pixel
_LARGEST_RATIO = 64


class Source(Pictures, Protocol):
    """Images with boxes, by index."""

    def identity(self, index: int) -> int:
        """A unique id of an image."""

    def objects(self, index: int) -> Objects:
        """The annotated objects of an image."""


class BoxedImages(Samples):
    """Samples of `images` (C, H, W) in 0 .. 1, in their original size, and `targets`.

    A target is a dict of `boxes` (N, 4), x1 y1 x2 y2 in pixels, `labels` (N) from 0, `area` (N), `iscrowd` (N),
    `image_id` (), and with masks `masks` (N, H, W). Crowds are only used in evaluation, and left out for training.

    Args:
        source: source of the images and objects.
        channels: 1 for grey images, 3 for RGB.
        augment: transforms images and boxes together; None for evaluation.
        with_masks: include masks.
    """

    def __init__(self, source: Source, channels: int, augment: v2.Transform | None, with_masks: bool) -> None:
        self.source, self.channels, self.augment, self.with_masks = source, channels, augment, with_masks
        self.classes, self.remarks = source.classes, source.remarks

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> dict[str, Any]:
        """Reads an image and its boxes, and augments both."""
        name = self.source.name(index)
        image = apply_transform(to_tensor, name, self.source.picture(index, self.channels))
        target = self._target(index, *image.shape[-2:])
        if self.augment is not None:
            image, target = apply_transform(self.augment, name, image, target)
        # plain tensors from here on: tv_tensors add overhead to every operation
        plain = {key: value.as_subclass(torch.Tensor) for key, value in target.items()}
        return {"images": image.as_subclass(torch.Tensor), "targets": plain, "name": name}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch of lists: images differ in size, and in their number of objects."""
        return collate(samples, stacked=False)

    def _target(self, index: int, height: int, width: int) -> dict[str, Any]:
        objects = self.source.objects(index)
        kept = np.ones(len(objects.labels), dtype=np.bool_) if self.augment is None else ~objects.crowds
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                torch.from_numpy(objects.boxes[kept]), format="XYXY", canvas_size=(height, width)
            ),
            "labels": torch.from_numpy(objects.labels[kept]),
            "area": torch.from_numpy(objects.areas[kept]),
            "iscrowd": torch.from_numpy(objects.crowds[kept]),
            "image_id": torch.tensor(self.source.identity(index)),
        }
        if self.with_masks:
            assert objects.outlines is not None, "the source must have been opened with masks"
            outlines = [outline for outline, is_kept in zip(objects.outlines, kept, strict=True) if is_kept]
            target["masks"] = tv_tensors.Mask(torch.from_numpy(draw_masks(outlines, width, height)))
        return target


DETECTION_DATASETS: dict[str, Callable[..., Source]] = {
    "coco": coco,
    "yolo": yolo,
    "voc": voc,
    "digits_on_canvas": DigitsOnCanvas,
}


def open_detection(
    data: Mapping[str, Any],
    split: str,
    augment: Sequence[Mapping[str, Any]] | None = None,
    channels: int = 3,
    with_masks: bool = False,
) -> BoxedImages:
    """Opens the data set of a recipe.

    Args:
        data: `name`, one of DETECTION_DATASETS; `mean` and `std` for the detector; other keys are arguments of the data
            set.
        split: "train", "val", or another split that the data set has.
        augment: transforms of torchvision.transforms.v2 for training, such as {"type": "RandomHorizontalFlip"}; None
            for evaluation.
        channels: 1 for grey images, 3 for RGB.
        with_masks: read and return the masks of objects too.

    Raises:
        ValueError: an unknown data set, split or transform, arguments that they do not take, or inconsistent
            annotations.
        FileNotFoundError: a file or folder does not exist.
    """
    transform = None if augment is None else box_augmentation(augment)
    source = open_source(DETECTION_DATASETS, data, split, NORMALISATION, with_masks=with_masks)
    return BoxedImages(source, channels, transform, with_masks)


def box_augmentation(augment: Sequence[Mapping[str, Any]]) -> v2.Transform:
    """Composes transforms of images and boxes; boxes that they cut off are removed.

    Raises:
        ValueError: `augment` is not a list, or a transform is unknown to torchvision.
    """
    if isinstance(augment, Mapping):
        raise ValueError(
            "augment must be a list of torchvision transforms for detection: timm's options are for classification only"
        )
    transforms = [augmentation(description) for description in augment]
    cleaning = v2.SanitizeBoundingBoxes(min_size=_SMALLEST_SIDE, labels_getter=_of_each_box)
    return v2.Compose([*transforms, v2.ClampBoundingBoxes(), cleaning])


def to_tensor(picture: Image.Image) -> tv_tensors.Image:
    """Converts an image for a detector, which resizes and normalises it: (C, H, W), float32 in 0 .. 1.

    Raises:
        ValueError: the image is too thin.
    """
    if max(picture.size) > _LARGEST_RATIO * min(picture.size):
        raise ValueError(
            f"it has {picture.width} x {picture.height} pixels, but the longer side may be at "
            f"most {_LARGEST_RATIO} times the shorter one"
        )
    image: tv_tensors.Image = v2.functional.to_dtype(v2.functional.to_image(picture), torch.float32, scale=True)
    return image


def _of_each_box(inputs: Any) -> tuple[torch.Tensor, ...]:
    target = inputs[1]
    return tuple(target[key] for key in ("labels", "area", "iscrowd"))
