"""Calibration images, read and preprocessed as in evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import timm.data
import torch
from torch import Tensor, nn

from ...finding import Skipped
from ...images import apply_transform, read_image

# more images hardly change the ranges, and each is run many times
MOST_PICTURES = 256
_BATCH = 16


def read_calibration(folder: Path, model: nn.Module, image_size: tuple[int, int] | None = None) -> list[Tensor]:
    """Reads the images of a folder and its subfolders in batches, preprocessed for a model.

    If there are more than `MOST_PICTURES`, an evenly spaced subset is read.

    Args:
        folder: folder with images.
        model: a timm model, which defines size, crop, mean and std.
        image_size: height and width; by default the size of the model.

    Returns:
        Batches (B, C, H, W).

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder holds no images, an image cannot be read, or the model does not define preprocessing.
    """
    from ...data import val_transform
    from ...predict import pictures_in

    if not folder.is_dir():
        raise FileNotFoundError(f"calibration: the folder {folder} does not exist")
    if not getattr(model, "pretrained_cfg", None):
        raise ValueError(f"calibration: {type(model).__name__} is not a timm model and defines no preprocessing")
    files = pictures_in([folder], Skipped())
    step = max(1.0, len(files) / MOST_PICTURES)
    chosen = [files[int(i * step)] for i in range(min(len(files), MOST_PICTURES))]
    wanted = timm.data.resolve_model_data_config(model)
    channels, *size = wanted["input_size"]
    transform = val_transform({**wanted, "input_size": (channels, *(image_size or size))})
    images = [apply_transform(transform, str(file), read_image(file, channels)) for file in chosen]
    return [torch.stack(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]


def batches_of(calibration: Iterable[Tensor], input_size: Sequence[int], dynamic: Sequence[str]) -> list[Tensor]:
    """Arranges calibration images in batches that a file takes.

    Args:
        calibration: batches (B, C, H, W) or images (C, H, W), preprocessed.
        input_size: channels, height and width of the file's images.
        dynamic: the dynamic axes of the file.

    Raises:
        ValueError: there are no images, or some have another size.
    """
    given = [images if images.dim() == 4 else images[None] for images in calibration]
    if not given:
        raise ValueError("calibration holds no images")
    fixed = [True, "height" not in dynamic, "width" not in dynamic]
    for images in given:
        sides = zip(fixed, images.shape[1:], input_size, strict=True)
        if any(is_fixed and size != wanted for is_fixed, size, wanted in sides):
            raise ValueError(
                f"calibration images must be {'x'.join(map(str, input_size))} and preprocessed for the model, "
                f"got {'x'.join(map(str, images.shape[1:]))}"
            )
    if "batch" in dynamic:
        return given
    # a file without a dynamic batch takes two images; a single last one is repeated
    return [
        torch.stack([images[i], images[min(i + 1, len(images) - 1)]])
        for images in given
        for i in range(0, len(images), 2)
    ]
