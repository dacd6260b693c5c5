"""Segments images with a file of `attnzoo export`, without torch: pip install onnxruntime numpy pillow.

Example: python examples/segment.py segmenter.onnx picture.jpg --output masks
H W C K are height, width, channels and classes.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from classify import open_session
from PIL import Image, ImageDraw, ImageFont
from shared import (
    SEGMENTS,
    check_pixels,
    interpolate,
    normalise,
    parser_of,
    percentages,
    read_notes,
    run,
    upright,
)

# largest distance of two windows, as a share of their size
_STEP = 2 / 3
# share of the color of a class in a drawing
_OPACITY = 0.55
# a drawing of a smaller image is enlarged to this longer side, and its legend is at most this wide, in pixels
_SMALLEST_SIDE, _WIDEST = 384, 2048
# share of black, the color of class 0, most often the background, so that the image stays visible
_OPACITY_OF_BLACK = 0.15


class Region(NamedTuple):
    """A class in a mask: its index, its name, and its share of the pixels (0 .. 1)."""

    index: int
    label: str
    share: float


def segment(session: onnxruntime.InferenceSession, picture: Image.Image) -> tuple[np.ndarray, list[Region]]:
    """The class of each pixel of an upright image (H, W), and the classes, the largest first.

    The image is resized as the file says. What is larger than the input is read in windows whose logits are averaged;
    what is smaller is padded with the mean. A file of `attnzoo export --task mask` has no logits: there the windows
    vote, and a mask that is enlarged has slightly other borders.

    Raises:
        ValueError: the file has another task, or the image is too thin or too large after resizing.
    """
    notes = read_notes(session.get_modelmeta().custom_metadata_map, *SEGMENTS)
    picture = upright(picture, notes["input_size"][0])
    mask = _classes(_logits(session, _prepare(picture, notes), notes), (picture.height, picture.width))
    counts = np.bincount(mask.ravel(), minlength=len(notes["labels"]))
    order = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
    return mask, [Region(i, notes["labels"][i], float(counts[i] / mask.size)) for i in order]


def _prepare(picture: Image.Image, notes: Mapping[str, Any]) -> np.ndarray:
    """Resizes an image so that all of it fits into the input, or its shorter side fills it, or not: (H, W, C)."""
    channels, height, width = notes["input_size"]
    if notes["resize"] != "none":
        ratios = width / picture.width, height / picture.height
        scale = min(ratios) if notes["resize"] == "fit" else max(ratios)
        size = round(picture.width * scale), round(picture.height * scale)
        check_pixels(size, after=" after resizing")
        picture = picture.resize(size, Image.Resampling[notes["interpolation"].upper()])
    return np.asarray(picture).reshape(picture.height, picture.width, channels)


def _logits(session: onnxruntime.InferenceSession, pixels: np.ndarray, notes: Mapping[str, Any]) -> np.ndarray:
    """Logits (K, H, W) of pixels (H, W, C) of any size, averaged over windows; of a mask its votes, 0 or 1."""
    _, height, width = notes["input_size"]
    # a file of `attnzoo export --preprocess` takes uint8 pixels and normalises them itself
    takes_pixels = session.get_inputs()[0].type == "tensor(uint8)"
    total = np.zeros((len(notes["labels"]), *pixels.shape[:2]), np.float32)
    count = np.zeros(pixels.shape[:2], np.float32)
    for top, left in itertools.product(_starts(pixels.shape[0], height), _starts(pixels.shape[1], width)):
        place = slice(top, top + height), slice(left, left + width)
        part = pixels[place]
        rows, columns, channels = part.shape
        if takes_pixels:
            image = np.empty((height, width, channels), np.uint8)
            image[:] = np.rint(np.multiply(notes["mean"], 255))
            image[:rows, :columns] = part
        else:
            image = np.zeros((channels, height, width), np.float32)
            image[:, :rows, :columns] = normalise(part, notes)
        answer = session.run(None, {"images": image[None]})[0][0]
        if notes["task"] == "mask":
            answer = answer == np.arange(len(total))[:, None, None]
        total[(slice(None), *place)] += answer[:, :rows, :columns]
        count[place] += 1
    return total / count


def _starts(length: int, window: int) -> list[int]:
    """Where the windows of a side begin: as few as needed, evenly spaced."""
    steps = max(0, -(-(length - window) // max(1, int(window * _STEP))))
    return [round(i * (length - window) / steps) for i in range(steps + 1)] if steps else [0]


def _classes(logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The class of the largest logit of each pixel, in another height and width: (K, h, w) -> (H, W)."""
    mask = np.zeros(size, np.uint16)
    largest = np.full(size, -np.inf, np.float32)
    # class by class: the logits of all classes in the size of a photograph take gigabytes
    for index, plane in enumerate(logits):
        resized = plane if plane.shape == size else interpolate(interpolate(plane, size[0], axis=0), size[1], axis=1)
        is_larger = resized > largest
        mask[is_larger], largest[is_larger] = index, resized[is_larger]
    return mask


def palette(count: int) -> np.ndarray:
    """Colors of classes (count, 3), uint8, those of PASCAL VOC and of `attnzoo predict`."""
    colors = np.zeros((count, 3), np.uint8)
    # three bits of an index at a time, one for each channel, from the highest bit of a color down
    for bit, channel in itertools.product(range(8), range(3)):
        colors[:, channel] |= (((np.arange(count) >> (3 * bit + channel)) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def index_image(mask: np.ndarray) -> Image.Image:
    """A mask (H, W) as a palette image whose values are the classes; with more than 256 classes it is 16-bit grey."""
    if mask.max() > 255:
        return Image.fromarray(mask.astype(np.uint16))
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(palette(int(mask.max()) + 1).tobytes())
    return image


def draw(picture: Image.Image, mask: np.ndarray, regions: Sequence[Region]) -> Image.Image:
    """A copy of an image, upright, with the colors of its classes over it and a legend; small ones are enlarged."""
    pixels, colors = np.asarray(upright(picture, 3)), palette(int(mask.max()) + 1)
    opacity = np.where(colors.any(axis=1), _OPACITY, _OPACITY_OF_BLACK)[mask][..., None]
    mixed = Image.fromarray(np.rint((1 - opacity) * pixels + opacity * colors[mask]).astype(np.uint8))
    if (scale := _SMALLEST_SIDE / max(mixed.size)) > 1:
        size = [max(1, round(side * scale)) for side in mixed.size]
        mixed = mixed.resize((size[0], size[1]), Image.Resampling.NEAREST)
    line = max(20, max(mixed.size) // 40)
    gap, font = line // 8, ImageFont.load_default(size=0.7 * line)
    said = [f"{share:.1%}  {label}" for _, label, share in regions]
    canvas = ImageDraw.Draw(mixed)
    widest = math.ceil(max(canvas.textbbox((line + gap, 0), text, font=font)[2] + gap for text in said))
    width = max(mixed.width, min(_WIDEST, widest))
    drawn = Image.new("RGB", (width, mixed.height + line * len(regions)), "white")
    drawn.paste(mixed)
    canvas = ImageDraw.Draw(drawn)
    for row, (index, *_) in enumerate(regions):
        top = mixed.height + line * row
        swatch = gap, top + gap, line - gap, top + line - gap
        canvas.rectangle(swatch, fill=tuple(map(int, colors[index])), outline="grey")
        canvas.text((line + gap, top + line // 2), said[row], fill="black", font=font, anchor="lm")
    return drawn


def answer(session: onnxruntime.InferenceSession, picture: Image.Image, name: str, options: argparse.Namespace) -> str:
    """The shares of the classes in an image, as text; writes an overlay and the mask if there is a folder for them."""
    mask, regions = segment(session, picture)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        draw(picture, mask, regions).save(options.output / f"{name}.jpg", quality=90)
        index_image(mask).save(options.output / f"{name}.png")
    return percentages([(label, share) for _, label, share in regions])


if __name__ == "__main__":
    parser = parser_of("Print the shares of the classes in images.")
    parser.add_argument("--output", type=Path, help="Folder for an overlay (JPEG) and a mask (PNG) of each image.")
    run(parser, open_session, answer)
