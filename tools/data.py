"""Data sets by name, and the transforms that take their images to tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import timm.data
import torchvision.transforms.v2 as augmentations
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset
from torchvision.transforms import Compose

Transform = Callable[[Image.Image], Any]

# What timm calls a data config: how a trained model wants its images
PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


class Images(Dataset[tuple[Any, int]]):
    """Grey or RGB images held in memory.

    Args:
        pixels: uint8, (N, H, W) or (N, H, W, 3).
        labels: class of each image, N integers in [0, len(classes)).
        classes: the names, in the order of the labels.
        transform: applied to each image when it is read.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        labels: NDArray[np.int64],
        classes: Sequence[str],
        transform: Transform | None = None,
    ) -> None:
        self.pixels, self.labels, self.classes, self.transform = pixels, labels, list(classes), transform

    @property
    def metainfo(self) -> dict[str, Any]:
        """What mmengine asks a data set for."""
        return {"classes": self.classes}

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = Image.fromarray(self.pixels[index])
        return (image if self.transform is None else self.transform(image)), int(self.labels[index])


def digits(split: str, transform: Transform | None = None) -> Images:
    """scikit-learn's handwritten digits, 1797 grey images of 8x8 pixels; the same fifth is always held out.

    Args:
        split: "train" (1437 images) or "val" (360), each with the classes in the same proportion.
        transform: applied to each PIL image.

    Raises:
        ValueError: another split.
    """
    if split not in ("train", "val"):
        raise ValueError(f'split must be "train" or "val", got {split!r}')
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    source = load_digits()
    rows = train_test_split(range(len(source.target)), test_size=0.2, stratify=source.target, random_state=0)
    chosen = rows[0] if split == "train" else rows[1]
    # 16 grey levels as counted on the scanned form -> the 256 of an image
    pixels = np.round(source.images[chosen] * (255 / 16)).astype(np.uint8)
    return Images(pixels, source.target[chosen], [str(name) for name in source.target_names], transform)


DATASETS: dict[str, Callable[..., Any]] = {"digits": digits}


def open_dataset(data: Mapping[str, Any], split: str, augment: Sequence[Mapping[str, Any]] = ()) -> Any:
    """A data set as a recipe describes it.

    Args:
        data: `name`, one of DATASETS; the keys of PREPROCESSING; what else the data set takes.
        split: "train" or "val".
        augment: transforms of `torchvision.transforms.v2` by name, {"type": "RandomAffine", "degrees": 10},
            applied to the resized image.

    Returns:
        A torch Dataset of (image tensor, label) with `.classes`.

    Raises:
        ValueError: an unknown data set or transform, or arguments that they do not take.
    """
    options = {key: value for key, value in data.items() if key not in (*PREPROCESSING, "name")}
    name = data.get("name")
    if name not in DATASETS:
        raise ValueError(f"data.name must be one of {', '.join(DATASETS)}, got {name!r}")
    try:
        return DATASETS[name](split, transform=_transform(data, augment), **options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"data: {error}") from error


def _transform(data: Mapping[str, Any], augment: Sequence[Mapping[str, Any]]) -> Compose:
    """timm's transform for evaluation, with the augmentations where the image is resized and not yet a tensor."""
    config = timm.data.resolve_data_config({key: data[key] for key in PREPROCESSING if key in data})
    steps = timm.data.create_transform(**config, is_training=False).transforms
    to_tensor = next(i for i, step in enumerate(steps) if "ToTensor" in type(step).__name__)
    return Compose([*steps[:to_tensor], *map(_augmentation, augment), *steps[to_tensor:]])


def _augmentation(description: Mapping[str, Any]) -> Any:
    options = dict(description)
    name = options.pop("type", None)
    transform = getattr(augmentations, str(name), None)
    if transform is None:
        raise ValueError(f"augment: type must name a transform of torchvision.transforms.v2, got {name!r}")
    try:
        return transform(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"augment: {name}: {error}") from error
