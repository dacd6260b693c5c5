"""Reading images of any bit depth, palette, alpha, color space or orientation."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Pillow mode by number of channels
MODES = {1: "L", 3: "RGB"}

# largest value of the modes that Pillow does not convert to 8 bits itself
_SIXTEEN_BITS = 65535


class UnreadableImageError(ValueError):
    """The file is not an image or is damaged. The message names it."""


def read_image(
    file: str | Path | BinaryIO | Image.Image, channels: int = 3, name: str | None = None, upright: bool = True
) -> Image.Image:
    """Reads an image as 8-bit grayscale or RGB, upright, with transparent pixels on white.

    16-bit images are scaled to 8 bits by their full range 0 .. 65535, not by the values they contain. Of an animation
    the first frame is read.

    Args:
        file: a path, an open binary file, or an open image.
        channels: 1 for grayscale, 3 for RGB.
        name: name of the image in error messages; its path by default.
        upright: apply the EXIF orientation. False if annotations refer to the image as it is stored.

    Raises:
        UnreadableImageError: the file cannot be opened, is not an image, is damaged or truncated.
        ValueError: `channels` is neither 1 nor 3.
    """
    if channels not in MODES:
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    name = name or str(getattr(file, "filename", None) or getattr(file, "name", None) or file)
    try:
        with warnings.catch_warnings():
            # ignore broken EXIF data, but reject images so large that Pillow suspects a decompression bomb
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = file if isinstance(file, Image.Image) else Image.open(file)
            image.load()
            return _convert(ImageOps.exif_transpose(image) if upright else image, MODES[channels])
    # decoders may raise any exception on damaged files
    except Exception as error:
        # Pillow's message contains the address of the file object, which differs between runs
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "unknown image format" if is_unknown else str(error) or type(error).__name__
        raise UnreadableImageError(f"{name} cannot be read as an image: {reason}") from error


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _to_eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        image = Image.new("RGBA", picture.size, "white")
        image.alpha_composite(picture)
    return image.convert(mode)


def _to_eight_bits(image: Image.Image) -> Image.Image:
    values: Any = np.asarray(image).astype(np.float64)
    # floating point images are in 0 .. 1, or in 0 .. 255 if a value exceeds 1
    scale = 255 / _SIXTEEN_BITS if image.mode != "F" else (255.0 if values.max(initial=0.0) <= 1 else 1.0)
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
