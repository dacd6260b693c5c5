"""Pictures as people have them: of any depth, palette, alpha, colour space or orientation, and perhaps damaged."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# by the channels that a model takes
MODES = {1: "L", 3: "RGB"}

# largest value of the modes that Pillow does not bring to 8 bits itself
_SIXTEEN_BITS = 65535


class UnreadableImageError(ValueError):
    """A file that is no picture, or not a whole one. The message names it."""


def read_image(
    file: str | Path | BinaryIO | Image.Image, channels: int = 3, name: str | None = None, upright: bool = True
) -> Image.Image:
    """Reads a picture the way it is meant to be looked at: upright, on white where it is transparent, 8 bits deep.

    16-bit pictures are scaled to 8 bits by their range of 0 .. 65535, not by what they hold; of an animation the first
    frame is taken; EXIF orientation is applied.

    Args:
        file: a path, an open binary file, or a picture that was opened already.
        channels: 1 for a grey picture, 3 for RGB.
        name: what to call it in an error; by default its path.
        upright: apply EXIF orientation; boxes may have been drawn on the picture as it is stored.

    Raises:
        UnreadableImageError: the file cannot be opened, is no picture, is damaged or ends early.
        ValueError: another number of channels.
    """
    if channels not in MODES:
        raise ValueError(f"pictures have 1 or 3 channels, {channels} were asked for")
    name = name or str(getattr(file, "filename", None) or getattr(file, "name", None) or file)
    try:
        with warnings.catch_warnings():
            # a picture so large that Pillow takes it for an attack, and broken EXIF that does not matter
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = file if isinstance(file, Image.Image) else Image.open(file)
            image.load()
            return _convert(ImageOps.exif_transpose(image) if upright else image, MODES[channels])
    # decoders of damaged files raise nearly anything
    except Exception as error:
        # Pillow names the object that it was given, which differs from time to time
        is_unknown = isinstance(error, UnidentifiedImageError)
        reason = "its contents are none that Pillow knows" if is_unknown else str(error) or type(error).__name__
        raise UnreadableImageError(f"{name} cannot be read as a picture: {reason}") from error


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
    # floating point pictures are taken as 0 .. 1, or 0 .. 255 where they exceed that
    scale = 255 / _SIXTEEN_BITS if image.mode != "F" else (255.0 if values.max(initial=0.0) <= 1 else 1.0)
    return Image.fromarray(np.clip(np.rint(values * scale), 0, 255).astype(np.uint8))
