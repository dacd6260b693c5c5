"""Reading images of any bit depth, palette, alpha, color space or orientation."""

from __future__ import annotations

import functools
import os
import stat
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# Pillow mode by number of channels
MODES = {1: "L", 3: "RGB"}

# extensions of image files, and the formats that are read whatever the extension. Pillow reads more, but starts
# Ghostscript for PostScript, and opens other files and libraries for others
EXTENSIONS = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif", ".pbm", ".pgm", ".ppm", ".pnm",
    ".jp2", ".avif",
)  # fmt: skip
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# environment variable that sets the largest number of pixels of an image; Pillow's own limit by default
MAX_PIXELS = "ATTNZOO_MAX_PIXELS"

# largest values of images of more than 8 bits: floats up to 1, and integers of 8, 16, 24 and 32 bits
_RANGES = (1, 2**8 - 1, 2**16 - 1, 2**24 - 1, 2**32 - 1)

# EXIF orientations that swap width and height
_TURNED = (5, 6, 7, 8)


class UnreadableImageError(ValueError):
    """The file is not an image or is damaged. The message names it."""


def read_image(
    file: str | Path | BinaryIO | Image.Image, channels: int = 3, name: str | None = None, upright: bool = True
) -> Image.Image:
    """Reads an image as 8-bit grayscale or RGB, upright, with transparent pixels on white.

    16-bit images are scaled to 8 bits by their full range 0 .. 65535, not by the values they contain. The range of
    32-bit integers and floats is not known: it is the smallest of 0 .. 1 (floats only), 0 .. 255, 0 .. 65535 and so on
    that holds their values. NaN is black. Of an animation the first frame is read. The number of pixels is checked
    before the image is decoded.

    Args:
        file: a path, an open binary file, or an open image.
        channels: 1 for grayscale, 3 for RGB.
        name: name of the image in error messages; its path by default.
        upright: apply the EXIF orientation. False if annotations refer to the image as it is stored.

    Raises:
        UnreadableImageError: the file cannot be opened, is not an image of FORMATS, has too many pixels, is damaged or
            truncated.
        ValueError: `channels` is neither 1 nor 3, or MAX_PIXELS is not a number.
    """
    if channels not in MODES:
        raise ValueError(f"channels must be 1 or 3, got {channels}")
    name = name or str(getattr(file, "filename", None) or getattr(file, "name", None) or file)
    max_pixels()
    try:
        with warnings.catch_warnings():
            # ignore broken EXIF data, and Pillow's warning of many pixels, which `check_pixels` rejects
            warnings.simplefilter("ignore")
            with open_regular(file) if isinstance(file, (str, Path)) else nullcontext(file) as opened:
                image = opened if isinstance(opened, Image.Image) else _open(opened)
                check_pixels(image.size)
                image.load()
            image = _to_eight_bits(image, ImageOps.exif_transpose(image) if upright else image)
            return _convert(image, MODES[channels])
    # decoders may raise any exception on damaged files
    except Exception as error:
        raise UnreadableImageError(f"{name} cannot be read as an image: {_reason(error)}") from error


def read_size(path: str | Path) -> tuple[int, int]:
    """Returns the width and height of an image as `read_image` returns it, without decoding it.

    Raises:
        UnreadableImageError: the file cannot be opened, or is not an image of FORMATS.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_regular(path) as file, _open(file) as image:
                width, height = image.size
                is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) in _TURNED
    # decoders may raise any exception on damaged files
    except Exception as error:
        raise UnreadableImageError(f"{path} cannot be read as an image: {_reason(error)}") from error
    return (height, width) if is_turned else (width, height)


def with_remedy(message: str, remedy: str) -> str:
    """Returns a message on a file with what to do, unless the message has its own, such as a key to set."""
    return message if ": set " in message else f"{message}; {remedy}"


def apply_transform(transform: Callable[..., Any], name: str, *inputs: Any) -> Any:
    """Returns `transform(*inputs)`, where the first input is an image.

    Raises:
        UnreadableImageError: the transform fails on this image, for example because it is too thin to be resized.
    """
    try:
        return transform(*inputs)
    # torch raises RuntimeError if there is not enough memory; transforms take options unchecked
    except (ValueError, TypeError, OverflowError, MemoryError, RuntimeError) as error:
        raise UnreadableImageError(f"{name} cannot be transformed: {_reason(error)}") from error


def check_pixels(size: tuple[int, int], after: str = "") -> None:
    """Checks that an image is not larger than `max_pixels`, before memory is allocated for it.

    Args:
        size: width and height.
        after: the operation that gives the size, such as " after resizing", for the message.

    Raises:
        ValueError: it is larger.
    """
    limit = max_pixels()
    if limit is not None and size[0] * size[1] > limit:
        raise ValueError(
            f"it has {size[0]} x {size[1]} pixels{after}, at most {limit} are allowed; the environment variable "
            f"{MAX_PIXELS} changes this limit"
        )


def max_pixels() -> int | None:
    """Returns the largest number of pixels of an image: MAX_PIXELS, or `PIL.Image.MAX_IMAGE_PIXELS`, None for no limit.

    Raises:
        ValueError: MAX_PIXELS is not a positive integer.
    """
    given = os.environ.get(MAX_PIXELS)
    if given:
        if not (given.isascii() and given.isdigit() and 0 < len(given) < 19 and int(given)):
            raise ValueError(f"the environment variable {MAX_PIXELS} must be a positive integer, got {given!r}")
        # Pillow also checks the results of crops
        Image.MAX_IMAGE_PIXELS = int(given)
    return Image.MAX_IMAGE_PIXELS


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file to read it in binary mode.

    Raises:
        OSError: it cannot be opened.
        ValueError: it is a folder, a pipe or a device, which could block forever.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is not a regular file")
    return open(path, "rb")


def _open(file: BinaryIO) -> Image.Image:
    try:
        return Image.open(file, formats=_formats())
    except Image.DecompressionBombError as error:
        raise ValueError(
            f"it has more than {2 * (max_pixels() or 0)} pixels, at most {max_pixels()} are allowed; the environment "
            f"variable {MAX_PIXELS} changes this limit"
        ) from error


@functools.cache
def _formats() -> tuple[str, ...]:
    # some formats are optional in Pillow
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _reason(error: Exception) -> str:
    # Pillow's message contains the address of the file object, which differs between runs
    if isinstance(error, UnidentifiedImageError):
        return f"it is not in one of the formats {', '.join(FORMATS)}"
    if isinstance(error, MemoryError):
        return "there is not enough memory"
    return " ".join(str(error).split()) or type(error).__name__


def _to_eight_bits(image: Image.Image, turned: Image.Image) -> Image.Image:
    """Converts the modes that Pillow does not scale to 8 bits; `turned` is the image, upright, without its format."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return turned
    values: Any = np.nan_to_num(np.asarray(turned).astype(np.float64), nan=0, posinf=2**32, neginf=0)
    # some versions of Pillow read 16 bits of PNG and PGM files as 32 bits
    is_sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    ranges = _RANGES[2:3] if is_sixteen else _RANGES[image.mode == "I" :]
    largest = next((x for x in ranges if x >= values[values < 2**32].max(initial=0)), ranges[-1])
    return Image.fromarray(np.clip(np.rint(values * (255 / largest)), 0, 255).astype(np.uint8))


def _convert(image: Image.Image, mode: str) -> Image.Image:
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        picture = image.convert("RGBA")
        image = Image.new("RGBA", picture.size, "white")
        image.alpha_composite(picture)
    return image.convert(mode)
