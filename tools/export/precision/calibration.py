"""Pictures that show a file which numbers to expect: read and prepared as evaluation does it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import timm.data
import torch
from torch import Tensor, nn

from ...images import read_image

# more pictures hardly move the ranges, and each is run many times
MOST_PICTURES = 256
_BATCH = 16


def read_calibration(folder: Path, model: nn.Module, image_size: tuple[int, int] | None = None) -> list[Tensor]:
    """Batches of the pictures of a folder, and of the folders in it, as the model wants them.

    Of more than `MOST_PICTURES` evenly spread ones are read.

    Args:
        folder: with pictures.
        model: of timm, which says size, crop, mean and std.
        image_size: height and width; by default what the model says.

    Returns:
        Batches (B, C, H, W).

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it holds no pictures, one of them cannot be read, or the model does not say how it wants them.
    """
    from ...data import val_transform
    from ...predict import SUFFIXES, pictures_in

    if not folder.is_dir():
        raise FileNotFoundError(f"calibration: there is no folder {folder}")
    if not getattr(model, "pretrained_cfg", None):
        raise ValueError(f"{type(model).__name__} is not a model of timm and does not say how it wants its pictures")
    files = pictures_in([folder])
    if not files:
        raise ValueError(f"calibration: {folder} holds no pictures ({', '.join(SUFFIXES)})")
    step = max(1.0, len(files) / MOST_PICTURES)
    chosen = [files[int(i * step)] for i in range(min(len(files), MOST_PICTURES))]
    wanted = timm.data.resolve_model_data_config(model)
    channels, *size = wanted["input_size"]
    transform = val_transform({**wanted, "input_size": (channels, *(image_size or size))})
    images = [transform(read_image(file, channels)) for file in chosen]
    return [torch.stack(images[i : i + _BATCH]) for i in range(0, len(images), _BATCH)]


def batches_of(calibration: Iterable[Tensor], input_size: Sequence[int], dynamic: Sequence[str]) -> list[Tensor]:
    """Calibration images in batches that a file takes.

    Args:
        calibration: batches (B, C, H, W) or images (C, H, W), preprocessed.
        input_size: channels, height and width of the file's images.
        dynamic: which of them are dynamic.

    Raises:
        ValueError: there are none, or some are of another size.
    """
    given = [images if images.dim() == 4 else images[None] for images in calibration]
    if not given:
        raise ValueError("calibration holds no images")
    fixed = [True, "height" not in dynamic, "width" not in dynamic]
    for images in given:
        sides = zip(fixed, images.shape[1:], input_size, strict=True)
        if any(is_fixed and size != wanted for is_fixed, size, wanted in sides):
            raise ValueError(
                f"calibration images must be {'x'.join(map(str, input_size))}, preprocessed as the model wants them, "
                f"got {'x'.join(map(str, images.shape[1:]))}"
            )
    if "batch" in dynamic:
        return given
    # a file of a fixed batch takes two images; an odd one is given twice
    return [
        torch.stack([images[i], images[min(i + 1, len(images) - 1)]])
        for images in given
        for i in range(0, len(images), 2)
    ]
