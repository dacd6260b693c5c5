"""Data sets of images with masks for the `data` of a segmentation recipe.

| `data.name`        | source                                                                                       |
|--------------------|----------------------------------------------------------------------------------------------|
| `maskfolder`       | `root/images/train/*.jpg` and `root/masks/train/*.png`, or folders set by keys               |
| `coco`, `yolo`     | objects with polygons or run lengths, see `attnzoo.tools.detection.data`                     |
| `hfds`             | a data set of the Hugging Face Hub or a local one, with a column of images and one of masks  |
| `digits_on_canvas` | scikit-learn's handwritten digits at random positions, generated on the fly                  |
| `mosaics`          | mosaics of scikit-image's photographs, generated on the fly                                  |
"""

from __future__ import annotations

import functools
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2

from ..data.samples import Samples, collate
from ..data.sources import open_source
from ..data.transforms import augmentation, preprocessing
from ..detection.data import DETECTION_DATASETS
from ..files import listed
from ..images import UnreadableImageError, apply_transform, check_pixels
from .folders import MaskFolder
from .mosaics import Mosaics
from .sources import IGNORED, IndexMasks, ObjectMasks, Source, counted, labels_in
from .tables import TableMasks

# how an image is brought to the input size: all of it fits, its shorter side fills it, or its size stays; what is
# larger is cut in training, and is read in windows in evaluation
RESIZE = ("fit", "cover", "none")
# the keys of `data` that are stored with a network
PREPARED = ("input_size", "mean", "std", "interpolation", "resize")


class Preparation:
    """The transform of images, and of masks with them.

    Args:
        data: a recipe's `data`, with the keys of PREPARED.
        augment: transforms of torchvision.transforms.v2 for training; None for evaluation.

    Attributes:
        stored: the values of PREPARED.

    Raises:
        ValueError: an unknown transform, or an invalid value.
    """

    def __init__(self, data: Mapping[str, Any], augment: Sequence[Mapping[str, Any]] | None = None) -> None:
        chosen = preprocessing(data)
        resize = data.get("resize", "fit")
        if resize not in RESIZE:
            raise ValueError(f"data.resize must be one of {', '.join(RESIZE)}, got {resize!r}")
        self.channels, *self.size = chosen["input_size"]
        self.stored = {**{key: chosen[key] for key in PREPARED if key in chosen}, "resize": resize}
        self.mean, self.std = (
            [float(x) for x in chosen[key]] * (self.channels // len(chosen[key])) for key in ("mean", "std")
        )
        # the colour of what is outside of an image is the mean, which is 0 after normalisation
        fill = {tv_tensors.Image: [round(255 * x) for x in self.mean], tv_tensors.Mask: IGNORED}
        self.augment = None
        if augment is not None:
            steps = [augmentation(_filled(description, fill)) for description in augment]
            cut = v2.RandomCrop(self.size, pad_if_needed=True, fill=fill)
            self.augment = v2.Compose([*steps, cut])

    def __call__(self, picture: Image.Image, mask: Tensor | None = None) -> Any:
        """An image -> (C, H, W), normalised; in training with its mask (H, W), both of the input size.

        Raises:
            ValueError: the image is too thin, or too large after resizing.
        """
        size = self._resized(picture.height, picture.width)
        # before it is a tensor: torchvision rounds the pixels of tensors otherwise than Pillow
        if size != (picture.height, picture.width):
            picture = v2.functional.resize(picture, list(size), InterpolationMode(self.stored["interpolation"]))
        image = v2.functional.to_image(picture)
        if self.augment is not None:
            assert mask is not None
            nearest = v2.functional.resize(tv_tensors.Mask(mask), list(size), InterpolationMode.NEAREST)
            image, mask = self.augment(image, nearest)
        pixels = v2.functional.to_dtype(image.as_subclass(Tensor), torch.float32, scale=True)
        pixels = v2.functional.normalize(pixels, self.mean, self.std)
        return pixels if mask is None else (pixels, mask.as_subclass(Tensor))

    def _resized(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of an image after resizing."""
        if self.stored["resize"] == "none":
            return height, width
        ratios = self.size[0] / height, self.size[1] / width
        scale = min(ratios) if self.stored["resize"] == "fit" else max(ratios)
        size = round(height * scale), round(width * scale)
        if min(size) < 1:
            raise ValueError(f"it has {width} x {height} pixels, and {size[1]} x {size[0]} after resizing")
        check_pixels((size[1], size[0]), " after resizing")
        return size


class SegmentedImages(Samples):
    """Samples of `images` (C, H, W) and `labels` (H, W).

    In training both have the input size and are stacked. In evaluation they are lists: images after resizing, and
    labels in the size of the file.

    Args:
        source: source of the images and masks.
        prepare: their transform.
    """

    def __init__(self, source: Source, prepare: Preparation) -> None:
        self.source, self.prepare = source, prepare
        self.classes, self.remarks = source.classes, source.remarks

    def __len__(self) -> int:
        return len(self.source)

    def load(self, index: int) -> dict[str, Any]:
        """Reads an image and its mask, and transforms both.

        Raises:
            UnreadableImageError: a file cannot be read, or the sizes of the two differ.
        """
        name = self.source.name(index)
        picture, mask = self.source.picture(index, self.prepare.channels), self.source.mask(index)
        if picture.size != mask.shape[::-1]:
            turned = "; one of the two may be turned by its EXIF orientation: write both upright, without it"
            raise UnreadableImageError(
                f"{name} has {picture.width} x {picture.height} pixels, but its mask has "
                f"{mask.shape[1]} x {mask.shape[0]}{turned if picture.size == mask.shape else ''}"
            )
        images, labels = apply_transform(self.prepare, name, picture, torch.from_numpy(mask))
        return {"images": images, "labels": labels, "name": name}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A batch, stacked in training."""
        return collate(samples, stacked=self.prepare.augment is not None)

    def pixels_per_class(self) -> list[int]:
        """Number of pixels of each class, over all masks that can be read."""
        counts = np.zeros(len(self.classes), dtype=np.int64)
        for _, mask in self._readable(self.source.mask, len(self)):
            counts += np.bincount(mask[mask != IGNORED], minlength=len(counts))
        return counts.tolist()

    def labels_present(self, most: int = 500) -> tuple[set[int], int]:
        """The labels in masks that can be read, with IGNORED, and how many masks were read.

        No more masks are read than are needed to find every class.

        Args:
            most: largest number of masks to read, evenly spaced.
        """
        found: set[int] = set()
        for tried, mask in self._readable(self.source.mask, most):
            found |= labels_in(mask)
            if len(found - {IGNORED}) == len(self.classes):
                return found, tried
        return found, min(most, len(self))

    def ignored(self, title: str, most: int = 50) -> str:
        """Describes the pixels that are ignored for their values; empty if there are none.

        Args:
            title: what the masks are for, such as "validation".
            most: largest number of masks to read, evenly spaced.
        """
        if not isinstance(self.source, IndexMasks):
            return ""
        found: Counter[int] = Counter()
        pixels = 0
        for _, values in self._readable(self.source.values, most):
            found.update(counted(values[self.source.coding.labels_of(values) == IGNORED]))
            pixels += values.size
        if not found:
            return ""
        share = max(0.1, 100 * found.total() / pixels)
        where = f"the {title} masks" if most >= len(self) else f"{most} of the {len(self)} {title} masks"
        why, shown = self.source.coding.reason(found), listed([str(value) for value in sorted(found)])
        return f"{share:.{int(share < 10)}f} % of the pixels of {where} have {why} and are ignored: {shown}"

    def _readable(self, read: Callable[[int], NDArray[np.int64]], most: int) -> Iterator[tuple[int, NDArray[np.int64]]]:
        """What `read` returns for the masks that can be read, `most` evenly spaced ones, and how many were tried."""
        count = min(most, len(self))
        for tried in range(count):
            try:
                values = read(tried * len(self) // count)
            except UnreadableImageError:
                continue
            yield tried + 1, values


def of_objects(name: str, split: str, background: bool = True, **options: Any) -> ObjectMasks:
    """Opens a data set of detection, one of DETECTION_DATASETS, as masks; `background` as in `ObjectMasks`."""
    if type(background) is not bool:
        raise ValueError(f"data.background must be True or False, got {background!r}")
    objects = open_source(DETECTION_DATASETS, {**options, "name": name}, split, (), with_masks=True)
    return ObjectMasks(objects, background)


SEGMENTATION_DATASETS: dict[str, Callable[..., Source]] = {
    "maskfolder": MaskFolder,
    "hfds": TableMasks,
    "mosaics": Mosaics,
    **{name: functools.partial(of_objects, name) for name in ("coco", "yolo", "digits_on_canvas")},
}


def open_segmentation(
    data: Mapping[str, Any], split: str, augment: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
) -> SegmentedImages:
    """Opens the data set of a recipe.

    Args:
        data: `name`, one of SEGMENTATION_DATASETS; the keys of PREPARED; other keys are arguments of the data set.
        split: "train", "val", or another split that the data set has.
        augment: transforms of torchvision.transforms.v2 for training, applied to image and mask after resizing and
            before a random crop of the input size; None for evaluation.

    Raises:
        ValueError: an unknown data set, split or transform, invalid arguments, or timm's options for `augment`.
        FileNotFoundError: a file or folder does not exist.
    """
    if isinstance(augment, Mapping):
        raise ValueError(
            "augment must be a list of torchvision transforms for segmentation: timm's options are for classification "
            "only"
        )
    prepare = Preparation(data, augment)
    return SegmentedImages(open_source(SEGMENTATION_DATASETS, data, split, PREPARED), prepare)


def _filled(description: Mapping[str, Any], fill: Mapping[Any, Any]) -> dict[str, Any]:
    """A transform's description in which what is outside of the image is ignored in its mask."""
    options = dict(description)
    if isinstance(inner := options.get("transforms"), (list, tuple)):
        options["transforms"] = [_filled(entry, fill) for entry in inner]
    transform = getattr(v2, str(options.get("type")), None)
    if inspect.isclass(transform) and "fill" in inspect.signature(transform).parameters:
        options["fill"] = {**fill, tv_tensors.Image: options.get("fill", fill[tv_tensors.Image])}
    return options
