"""From a picture to the tensor that a model wants: timm's transforms, and what a recipe adds to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import timm.data
import torchvision.transforms.v2 as augmentations
from PIL import Image
from torchvision.transforms import Compose

Transform = Callable[[Image.Image], Any]

# What timm calls a data config: how a trained model wants its images
PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


def preprocessing(data: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a recipe's `data` that says how images are prepared, whole."""
    resolved = timm.data.resolve_data_config({key: data[key] for key in PREPROCESSING if key in data})
    return {key: resolved[key] for key in PREPROCESSING}


def val_transform(data: Mapping[str, Any]) -> Transform:
    """timm's transform for evaluation."""
    return timm.data.create_transform(**preprocessing(data), is_training=False)


def train_transform(data: Mapping[str, Any], augment: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Transform:
    """The transform of training images.

    Args:
        data: a recipe's, see PREPROCESSING.
        augment: as a dict the options of timm's training transform (`timm.data.create_transform`): scale, ratio,
            hflip, color_jitter, auto_augment, re_prob and so on; as a list transforms of torchvision.transforms.v2,
            {"type": "RandomAffine", "degrees": 10}, between the resizing of the evaluation transform and its tensor.

    Raises:
        ValueError: what timm or torchvision do not know.
    """
    prepare = preprocessing(data)
    if isinstance(augment, Mapping):
        # interpolation may be drawn anew for each image, which evaluation must not do
        options = {**prepare, **augment}
        try:
            return timm.data.create_transform(**options, is_training=True)
        except (TypeError, ValueError, AssertionError) as error:
            raise ValueError(f"augment: timm.data.create_transform does not take it: {error}") from error
    steps = val_transform(data).transforms  # type: ignore[attr-defined]
    to_tensor = next(i for i, step in enumerate(steps) if "ToTensor" in type(step).__name__)
    return Compose([*steps[:to_tensor], *map(augmentation, augment), *steps[to_tensor:]])


def augmentation(description: Mapping[str, Any]) -> Any:
    """A transform of torchvision.transforms.v2.

    Args:
        description: `type`, its name, and its arguments; `transforms` of those that hold others are described the same
            way.

    Raises:
        ValueError: torchvision does not know it, or not with these arguments.
    """
    options = dict(description)
    name = options.pop("type", None)
    transform = getattr(augmentations, str(name), None)
    if not isinstance(transform, type) or not issubclass(transform, augmentations.Transform):
        raise ValueError(f"augment: type must name a transform of torchvision.transforms.v2, got {name!r}")
    if isinstance(options.get("transforms"), (list, tuple)):
        options["transforms"] = [augmentation(inner) for inner in options["transforms"]]
    try:
        return transform(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"augment: {name}: {error}") from error
