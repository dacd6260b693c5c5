"""Pictures with boxes: the forms that the `data` of a detection recipe may name.

| `data.name`        | what it reads                                                                                 |
|--------------------|-----------------------------------------------------------------------------------------------|
| `coco`             | `root/annotations/instances_train2017.json` and `root/train2017/*.jpg`, or what the keys say  |
| `digits_on_canvas` | scikit-learn's handwritten digits at random places, made on the fly                           |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..data.samples import Samples, collate
from ..data.sources import open_source
from ..data.transforms import augmentation
from .canvases import DigitsOnCanvas
from .coco import CocoImages, Objects
from .outlines import draw_masks

# what the detector itself is told of `data`: it normalises and resizes
NORMALISATION = ("mean", "std")

# the sides of a box that sanitising leaves, in pixels: less is what an augmentation has cut off
_SMALLEST_SIDE = 1.0


class Source(Protocol):
    """Pictures with boxes, by index."""

    @property
    def classes(self) -> Sequence[str]:
        """Names, in the order of the labels."""

    @property
    def remarks(self) -> str:
        """What was left out or changed; empty where nothing was."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """What to call a picture in a message."""

    def identity(self, index: int) -> int:
        """A number that no other picture has."""

    def objects(self, index: int) -> Objects:
        """What is to be found."""

    def picture(self, index: int, channels: int) -> Image.Image:
        """The picture, with 1 or 3 channels."""


class BoxedImages(Samples):
    """Samples `images` (C, H, W) in 0 .. 1, as large as they are, and `targets`.

    A target is a dict of `boxes` (N, 4), x1 y1 x2 y2 in pixels, `labels` (N) from 0, `area` (N), `iscrowd` (N),
    `image_id` (), and with masks `masks` (N, H, W). Crowds are for judging only: to learn from, they are left out.

    Args:
        source: where they are from.
        channels: 1 for grey pictures, 3 for RGB.
        augment: changes pictures and boxes alike; None for samples to judge by.
        with_masks: give masks too.
    """

    def __init__(self, source: Source, channels: int, augment: v2.Transform | None, with_masks: bool) -> None:
        self.source, self.channels, self.augment, self.with_masks = source, channels, augment, with_masks
        self.classes = source.classes

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> dict[str, Any]:
        """Reads a picture and its boxes, and augments both."""
        name = self.source.name(index)
        image = v2.functional.to_dtype(
            v2.functional.to_image(self.source.picture(index, self.channels)), torch.float32, scale=True
        )
        target = self._target(index, *image.shape[-2:])
        if self.augment is not None:
            image, target = self.augment(image, target)
        # plain tensors from here on: what knows of boxes costs time in every operation
        plain = {key: value.as_subclass(torch.Tensor) for key, value in target.items()}
        return {"images": image.as_subclass(torch.Tensor), "targets": plain, "name": name}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch of lists: pictures differ in size, and in what is on them."""
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
            assert objects.outlines is not None, "the source was asked for outlines"
            outlines = [outline for outline, is_kept in zip(objects.outlines, kept, strict=True) if is_kept]
            target["masks"] = tv_tensors.Mask(torch.from_numpy(draw_masks(outlines, width, height)))
        return target


DETECTION_DATASETS: dict[str, Callable[..., Source]] = {"coco": CocoImages, "digits_on_canvas": DigitsOnCanvas}


def open_detection(
    data: Mapping[str, Any],
    split: str,
    augment: Sequence[Mapping[str, Any]] | None = None,
    channels: int = 3,
    with_masks: bool = False,
) -> BoxedImages:
    """A data set as a recipe describes it.

    Args:
        data: `name`, one of DETECTION_DATASETS; `mean` and `std`, which the detector takes; what else the data set
            takes.
        split: "train" or "val".
        augment: of training images, transforms of torchvision.transforms.v2, {"type": "RandomHorizontalFlip"}; None
            gives samples to judge by.
        channels: 1 for grey pictures, 3 for RGB.
        with_masks: read and give the outlines of objects too.

    Raises:
        ValueError: an unknown data set, split or transform, arguments that they do not take, or annotations that
            contradict themselves.
        FileNotFoundError: a file or folder is not there.
    """
    transform = None if augment is None else box_augmentation(augment)
    source = open_source(DETECTION_DATASETS, data, split, NORMALISATION, with_masks=with_masks)
    return BoxedImages(source, channels, transform, with_masks)


def box_augmentation(augment: Sequence[Mapping[str, Any]]) -> v2.Transform:
    """Transforms of pictures and boxes, one after the other; boxes that they cut off are left out.

    Raises:
        ValueError: it is no list, or torchvision does not know it.
    """
    if isinstance(augment, Mapping):
        raise ValueError(
            "augment must be a list of torchvision transforms for detection: timm's options are for classification"
        )
    transforms = [augmentation(description) for description in augment]
    cleaning = v2.SanitizeBoundingBoxes(min_size=_SMALLEST_SIDE, labels_getter=_of_each_box)
    return v2.Compose([*transforms, v2.ClampBoundingBoxes(), cleaning])


def _of_each_box(inputs: Any) -> tuple[torch.Tensor, ...]:
    target = inputs[1]
    return tuple(target[key] for key in ("labels", "area", "iscrowd"))
