"""Transforms from images to tensors: those of timm, and torchvision augmentations."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

import timm.data
import torchvision.transforms.v2 as augmentations
from PIL import Image
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.transforms import ResizeKeepRatio
from torchvision.transforms import Compose, Resize

from attnzoo_command.keys import guess, input_size

from ..files import without_function
from ..images import MODES, check_pixels

Transform = Callable[[Image.Image], Any]

# the keys of timm's data config
PREPROCESSING = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode")


# of timm.data.transforms
_INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos")
_CROP_MODES = ("center", "squash", "border")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


# what a value must be; timm has published models with a crop_pct of 1.15
_ALLOWED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "crop_pct": ("a number greater than 0 and at most 2", lambda value: _is_number(value) and 0 < value <= 2),
    "interpolation": (f"one of {', '.join(_INTERPOLATIONS)}", lambda value: value in _INTERPOLATIONS),
    "crop_mode": (f"one of {', '.join(_CROP_MODES)}", lambda value: value in _CROP_MODES),
}


class CheckResized:
    """First step of a transform: rejects a thin image, which would be too large after the next step.

    Args:
        step: the step that resizes images.
    """

    def __init__(self, step: Any) -> None:
        self.step = step

    def __call__(self, image: Image.Image) -> Image.Image:
        """Returns the image as it is.

        Raises:
            ValueError: it has too many pixels after resizing, or none.
        """
        width, height = image.size
        if isinstance(self.step, ResizeKeepRatio):
            height, width = self.step.get_params(image, self.step.size, self.step.longest)
        # an integer is the length of the shorter side
        elif isinstance(self.step, Resize) and isinstance(self.step.size, int):
            ratio = self.step.size / min(image.size)
            height, width = round(height * ratio), round(width * ratio)
        if min(width, height) < 1:
            raise ValueError(f"it has {image.width} x {image.height} pixels, and {width} x {height} after resizing")
        check_pixels((width, height), " after resizing")
        return image


def preprocessing(data: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the complete data config of timm for a recipe's `data`.

    Raises:
        ValueError: an invalid input size, mean or standard deviation.
    """
    given = {"input_size": (3, 224, 224), **{key: data[key] for key in PREPROCESSING if key in data}}
    size = given["input_size"]
    if not isinstance(size, (tuple, list)) or len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
        meant = input_size(str(size))
        raise ValueError(
            f"data.input_size must be three positive integers (channels, height, width), got {size!r}: write "
            f"data.input_size={meant}"
        )
    if size[0] not in MODES:
        raise ValueError(f"data.input_size must start with 1 channel (grayscale) or 3 channels (RGB), got {size[0]}")
    if size[0] == 1:
        # one channel instead of ImageNet's three
        given = {"mean": (fmean(IMAGENET_DEFAULT_MEAN),), "std": (fmean(IMAGENET_DEFAULT_STD),), **given}
    for key in ("mean", "std"):
        value = given.get(key, (0.5,) * size[0])
        if not isinstance(value, (tuple, list)) or len(value) not in (1, size[0]):
            raise ValueError(
                f"data.{key} must have one value, or one for each of the {size[0]} channels, got {value!r}"
            )
        if not all(map(_is_number, value)) or (key == "std" and min(value) <= 0):
            kind = "positive numbers" if key == "std" else "numbers"
            raise ValueError(f"data.{key} must consist of {kind}, got {value!r}")
    for key, (what, is_allowed) in _ALLOWED.items():
        if given.get(key) is not None and not is_allowed(given[key]):
            raise ValueError(f"data.{key} must be {what}, got {given[key]!r}")
    resolved = timm.data.resolve_data_config(given)
    return {key: resolved[key] for key in PREPROCESSING}


def val_transform(data: Mapping[str, Any]) -> Transform:
    """Creates timm's transform for evaluation.

    Raises:
        ValueError: timm does not accept a value.
    """
    prepare = preprocessing(data)
    try:
        steps = timm.data.create_transform(**prepare, is_training=False).transforms
    except (TypeError, ValueError, AssertionError, KeyError, AttributeError) as error:
        raise ValueError(f"data: timm.data.create_transform does not accept {prepare}: {error}") from error
    return Compose([CheckResized(steps[0]), *steps])


def train_transform(data: Mapping[str, Any], augment: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> Transform:
    """Creates the transform of training images.

    Args:
        data: a recipe's `data`, see PREPROCESSING.
        augment: a dict of options of timm's training transform (`timm.data.create_transform`): scale, ratio, hflip,
            color_jitter, auto_augment, re_prob and so on; or a list of transforms of torchvision.transforms.v2 such as
            {"type": "RandomAffine", "degrees": 10}, applied between the resizing and the tensor conversion of the
            evaluation transform.

    Raises:
        ValueError: timm or torchvision does not accept a value.
    """
    prepare = preprocessing(data)
    if isinstance(augment, Mapping):
        # training may use a random interpolation per image, evaluation must not
        options = {**prepare, **augment}
        try:
            steps = timm.data.create_transform(**options, is_training=True).transforms
        except (TypeError, ValueError, AssertionError, KeyError, AttributeError) as error:
            raise ValueError(f"augment: timm.data.create_transform does not accept it: {error}") from error
        return Compose([CheckResized(steps[0]), *steps])
    steps = val_transform(data).transforms  # type: ignore[attr-defined]
    to_tensor = next(i for i, step in enumerate(steps) if "ToTensor" in type(step).__name__)
    return Compose([*steps[:to_tensor], *map(augmentation, augment), *steps[to_tensor:]])


def augmentation(description: Mapping[str, Any]) -> Any:
    """Creates a transform of torchvision.transforms.v2.

    Args:
        description: `type`, the class name, and its arguments. Nested `transforms` are described in the same way.

    Raises:
        ValueError: torchvision does not know the transform, or does not accept its arguments.
    """
    options = dict(description)
    name = options.pop("type", None)
    transform = getattr(augmentations, str(name), None)
    if not isinstance(transform, type) or not issubclass(transform, augmentations.Transform):
        near = guess(str(name), dir(augmentations))
        raise ValueError(f"augment: type must be a transform of torchvision.transforms.v2, got {name!r}{near}")
    if isinstance(options.get("transforms"), (list, tuple)):
        options["transforms"] = [augmentation(inner) for inner in options["transforms"]]
    try:
        return transform(**options)
    except (TypeError, ValueError) as error:
        known = inspect.signature(transform).parameters
        near = next((guess(key, list(known)) for key in options if key not in known), "")
        raise ValueError(f"augment: {name}: {without_function(error)}{near}") from error
