"""Command line, preprocessing and postprocessing for the examples of this folder, with NumPy and Pillow only.

The result is the same, pixel by pixel, as that of timm's evaluation transform. The settings are read from the metadata
of an exported file; `detect.py` and `segment.py` have what their tasks need instead. H W C are height, width and
channels.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import stat
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# tasks of the files of a segmenter: logits of each pixel, or its class
SEGMENTS = ("segment", "mask")
# entries that are JSON; the others are plain text
_JSON = ("input_size", "mean", "std", "crop_pct", "labels", "pad")
_NEEDED = {
    "classify": ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode"),
    "detect": ("input_size", "resize", "pad"),
    **dict.fromkeys(SEGMENTS, ("input_size", "mean", "std", "interpolation", "resize", "labels")),
}
_PROGRAMS = {"classify": "classify.py", "detect": "detect.py", **dict.fromkeys(SEGMENTS, "segment.py")}

# largest values of images of more than 8 bits: floats up to 1, and integers of 8, 16, 24 and 32 bits
_RANGES = (1, 2**8 - 1, 2**16 - 1, 2**24 - 1, 2**32 - 1)
# the formats that are read: Pillow starts other programs for some of the others
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")


def _most_pixels() -> int:
    """Largest number of pixels of an image; ends the program if ATTNZOO_MAX_PIXELS is not one."""
    given = os.environ.get("ATTNZOO_MAX_PIXELS")
    if not given:
        return 100_000_000
    if not (given.isascii() and given.isdigit() and len(given) < 19 and int(given)):
        sys.exit(f"the environment variable ATTNZOO_MAX_PIXELS must be a positive integer, got {given!r}")
    # Pillow's own limit
    Image.MAX_IMAGE_PIXELS = int(given)
    return int(given)


# as decoded and as resized
MOST_PIXELS = _most_pixels()
# the end of a message, which the service, with a limit of its own, leaves out
PIXELS_HINT = "; the environment variable ATTNZOO_MAX_PIXELS changes this limit"


class PixelsError(ValueError):
    """An image has too many pixels, or none."""


def parser_of(description: str) -> argparse.ArgumentParser:
    """A parser of the arguments that every program takes: a file and images."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("model", help="File of `attnzoo export`.")
    parser.add_argument("images", nargs="+", help="Image files.")
    return parser


def run(
    parser: argparse.ArgumentParser,
    open_model: Callable[[str], Any],
    answer: Callable[[Any, Image.Image, str, argparse.Namespace], str],
) -> None:
    """Prints an answer for each image; ends the program with one line if something cannot be read or written.

    Args:
        parser: see `parser_of`.
        open_model: function that opens the file.
        answer: function of the opened file, an image, a name without extension that no other image has, and the
            arguments.
    """
    options = parser.parse_args()
    # where the output is ASCII, other characters of names are escaped
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        model = open_model(options.model)
        for number, path in enumerate(options.images):
            # numbered, because images in two folders may have the same name
            name = f"{number:05d}-{Path(path).stem}"
            picture = open_picture(path)
            try:
                said = answer(model, picture, name, options)
            except PixelsError as error:
                raise ValueError(f"{path} cannot be resized: {error}") from error
            print(f"{path}: {said}")
    except (ValueError, OSError) as error:
        sys.exit(str(error))


def read_notes(metadata: Mapping[str, str], *tasks: str) -> dict[str, Any]:
    """Parses the metadata of a file.

    Args:
        metadata: the metadata.
        tasks: the tasks that the file may have; by default only "classify".

    Raises:
        ValueError: the metadata lacks preprocessing, or the file has another task.
    """
    task = metadata.get("task", "classify")
    if task not in (tasks or ("classify",)):
        hint = f"use {_PROGRAMS[task]}" if task in _PROGRAMS else "export it with `--task classify`"
        raise ValueError(f"the task of the file must be {' or '.join(tasks or ('classify',))}, got {task}: {hint}")
    if missing := [key for key in _NEEDED[task] if key not in metadata]:
        raise ValueError(f"the metadata of the file lacks {', '.join(missing)}: was it written by `attnzoo export`?")
    return {"task": task, **{key: json.loads(value) if key in _JSON else value for key, value in metadata.items()}}


def open_picture(file: str | Path | BinaryIO, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """Opens and decodes an image.

    Raises:
        ValueError: the file is not an image of FORMATS, is damaged, or has too many pixels.
    """
    name = file if isinstance(file, (str, Path)) else "the request body"
    try:
        # opening a pipe or a device could block forever
        if isinstance(file, (str, Path)) and not stat.S_ISREG(os.stat(file).st_mode):
            raise ValueError("it is not a regular file")
        Image.init()
        picture = Image.open(file, formats=[form for form in FORMATS if form in Image.OPEN])
        check_pixels(picture.size, most_pixels)
        picture.load()
    # decoders raise various exceptions for damaged files
    except Exception as error:
        reason: object = error
        if isinstance(error, UnidentifiedImageError):
            reason = f"it is not in one of the formats {', '.join(FORMATS)}"
        # Pillow's message says twice its limit, and not how to change it
        if isinstance(error, Image.DecompressionBombError):
            reason = f"it has more than {most_pixels} pixels, which is the limit{PIXELS_HINT}"
        raise ValueError(f"{name} cannot be read as an image: {reason}") from error
    return picture


def upright(picture: Image.Image, channels: int) -> Image.Image:
    """Applies the EXIF orientation and converts to 8 bits, with 1 channel (grey) or 3 channels (RGB).

    Transparent images are composited on white. 16-bit images are scaled to 8 bits by their range; 32-bit integers and
    floats by the smallest of the usual ranges that holds their values.
    """
    form = picture.format
    # the steps below copy only where they must: a large image takes hundreds of megabytes
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        picture = _to_eight_bits(picture, form)
    if picture.has_transparency_data:
        picture = picture if picture.mode == "RGBA" else picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    mode = "L" if channels == 1 else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def prepare(picture: Image.Image, notes: Mapping[str, Any]) -> np.ndarray:
    """Makes an image `upright`, resizes it, and crops the center: (H, W, C), 0 .. 255.

    Raises:
        PixelsError: the image is so thin that it has more than MOST_PIXELS after resizing, or none.
    """
    channels, height, width = notes["input_size"]
    picture = upright(picture, channels)
    size = _resized(picture.size, notes)
    check_pixels(size, after=" after resizing")
    picture = picture.resize(size, Image.Resampling[notes["interpolation"].upper()])
    is_bordered = notes["crop_mode"] == "border"
    fill = tuple(round(255 * value) if is_bordered else 0 for value in notes["mean"])
    image = Image.new(picture.mode, (width, height), fill)
    # a side that is too long is cropped at both ends, one that is too short is padded
    image.paste(picture, (_offset(width, picture.width), _offset(height, picture.height)))
    return np.asarray(image).reshape(height, width, channels)


def normalise(pixels: np.ndarray, notes: Mapping[str, Any]) -> np.ndarray:
    """Normalises with mean and standard deviation: (H, W, C), 0 .. 255 -> (C, H, W) float32."""
    mean, std = (np.asarray(notes[key], np.float32) for key in ("mean", "std"))
    return ((pixels / np.float32(255) - mean) / std).transpose(2, 0, 1)


def percentages(found: Sequence[tuple[str, float]]) -> str:
    """Labels and shares as text."""
    return ", ".join(f"{label} {share:.1%}" for label, share in found)


def likeliest(logits: np.ndarray, labels: Sequence[str] | None, top: int) -> list[tuple[str, float]]:
    """Labels and probabilities of the largest logits of one image; without labels, class indices."""
    scores = np.exp(logits - logits.max())
    scores /= scores.sum()
    return [(labels[i] if labels else str(i), float(scores[i])) for i in np.argsort(-scores)[:top]]


def interpolate(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Resizes an axis, linearly between the centers of pixels and without a filter, as `interpolate` of torch does."""
    before = values.shape[axis]
    places = ((np.arange(length, dtype=np.float64) + 0.5) * (before / length) - 0.5).clip(0)
    first = places.astype(np.int64)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    share = (places - first).astype(np.float32).reshape(shape)
    lower, upper = (values.take(i.clip(max=before - 1), axis).astype(np.float32) for i in (first, first + 1))
    interpolated: np.ndarray = lower + (upper - lower) * share
    return interpolated


def check_pixels(size: tuple[int, int], most_pixels: int = MOST_PIXELS, after: str = "") -> None:
    """Checks that an image of a width and height has pixels, and not too many.

    Raises:
        PixelsError: it has none, or more than `most_pixels`.
    """
    has = f"it has {size[0]} x {size[1]} pixels{after}"
    if min(size) < 1:
        raise PixelsError(f"{has}: it is too thin")
    if size[0] * size[1] > most_pixels:
        raise PixelsError(f"{has}, at most {most_pixels} are allowed{PIXELS_HINT}")


def _to_eight_bits(picture: Image.Image, form: str | None) -> Image.Image:
    values = np.nan_to_num(np.asarray(picture).astype(np.float64), nan=0, posinf=2**32, neginf=0)
    # some versions of Pillow read 16 bits of PNG and PGM files as 32 bits
    is_sixteen = picture.mode.startswith("I;16") or (picture.mode == "I" and form in ("PNG", "PPM"))
    ranges = _RANGES[2:3] if is_sixteen else _RANGES[picture.mode == "I" :]
    largest = next((x for x in ranges if x >= values[values < 2**32].max(initial=0)), ranges[-1])
    return Image.fromarray(np.clip(np.rint(values * (255 / largest)), 0, 255).astype(np.uint8))


def _resized(size: tuple[int, int], notes: Mapping[str, Any]) -> tuple[int, int]:
    """Width and height of a resized image, before the center crop."""
    _, *sides = notes["input_size"]
    height, width = (math.floor(side / notes["crop_pct"]) for side in sides)
    if notes["crop_mode"] == "squash":
        return width, height
    # the same size as timm and torchvision: torchvision rounds the longer side down
    if notes["crop_mode"] == "center" and width == height:
        return width * size[0] // min(size), width * size[1] // min(size)
    ratios = size[0] / width, size[1] / height
    ratio = max(ratios) if notes["crop_mode"] == "border" else min(ratios)
    return round(size[0] / ratio), round(size[1] / ratio)


def _offset(wanted: int, given: int) -> int:
    return (wanted - given) // 2 if wanted > given else -round((given - wanted) / 2)
