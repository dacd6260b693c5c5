"""Detects objects in images with a file of `attnzoo export`, without torch: pip install onnxruntime numpy pillow.

Example: python examples/detect.py detector.onnx picture.jpg --output drawn
H W C are height, width and channels.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from classify import open_session
from PIL import Image, ImageColor, ImageDraw, ImageFont
from shared import interpolate, parser_of, read_notes, run, upright


class Found(NamedTuple):
    """An object: its class, its score (0 .. 1), and x1, y1, x2, y2 in pixels of the upright image."""

    label: str
    score: float
    box: tuple[float, float, float, float]


def detect(session: onnxruntime.InferenceSession, picture: Image.Image, least_score: float = 0.3) -> list[Found]:
    """The objects in an image with at least a score, the best first."""
    notes = read_notes(session.get_modelmeta().custom_metadata_map, "detect")
    picture = upright(picture, notes["input_size"][0])
    image, (width, height) = fit(picture, notes)
    # a file of `attnzoo export --preprocess` takes uint8 pixels, channels last
    if session.get_inputs()[0].type == "tensor(uint8)":
        image = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
    boxes, scores, labels = (x[0] for x in session.run(["boxes", "scores", "labels"], {"images": image[None]}))
    # from pixels of the resized image to those of the picture
    boxes = boxes.clip(0, [width, height] * 2) * np.array([picture.width / width, picture.height / height] * 2)
    names = notes.get("labels")
    return [
        Found(names[label] if names else str(label), float(score), tuple(map(float, box)))
        for box, score, label in zip(boxes, scores, labels, strict=True)
        # without an object, or only in the padding
        if score >= least_score and label >= 0 and box[0] < box[2] and box[1] < box[3]
    ]


def fit(picture: Image.Image, notes: Mapping[str, Any]) -> tuple[np.ndarray, tuple[int, int]]:
    """Resizes an image to the size of a file as in training: bilinear, without a filter for large images.

    A letterbox keeps the aspect ratio and pads with the mean color at the right and at the bottom.

    Returns:
        The image (C, H, W), float32 in 0 .. 1, and the width and height of the picture in it.
    """
    channels, height, width = notes["input_size"]
    size = width, height
    if notes["resize"] == "letterbox":
        scale = min(width / picture.width, height / picture.height)
        size = max(1, math.floor(picture.width * scale)), max(1, math.floor(picture.height * scale))
    pixels = np.asarray(picture).reshape(picture.height, picture.width, channels)
    resized = interpolate(interpolate(pixels, size[1], axis=0), size[0], axis=1) / np.float32(255)
    image = np.empty((height, width, channels), np.float32)
    image[:] = np.asarray(notes["pad"], np.float32)
    image[: size[1], : size[0]] = resized
    return image.transpose(2, 0, 1), size


def draw(picture: Image.Image, found: Sequence[Found]) -> Image.Image:
    """A copy of an image, upright, with boxes and labels; each class has its color."""
    drawn = upright(picture, 3).copy()
    canvas = ImageDraw.Draw(drawn)
    width = max(2, round(max(drawn.size) / 400))
    font = ImageFont.load_default(size=max(10, 5 * width))
    # the best on top
    for label, score, box in reversed(found):
        color = ImageColor.getrgb(f"hsl({zlib.crc32(label.encode()) % 360}, 80%, 40%)")
        canvas.rectangle(box, outline=color, width=width)
        text = f"{label} {score:.0%}"
        place = canvas.textbbox((box[0], max(0, box[1] - 6 * width)), text, font=font)
        canvas.rectangle(place, fill=color)
        canvas.text(place[:2], text, fill="white", font=font, anchor="lt")
    return drawn


def answer(session: onnxruntime.InferenceSession, picture: Image.Image, name: str, options: argparse.Namespace) -> str:
    """The objects in an image, as text; writes a copy with boxes if there is a folder for it."""
    found = detect(session, picture, options.least_score)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        draw(picture, found).save(options.output / f"{name}.jpg", quality=90)
    said = (f"{label} {score:.1%} at {', '.join(f'{x:.0f}' for x in box)}" for label, score, box in found)
    return "; ".join(said) or "nothing found"


if __name__ == "__main__":
    parser = parser_of("Print the objects in images.")
    parser.add_argument("--output", type=Path, help="Folder for the images with boxes.")
    parser.add_argument("--least-score", type=float, default=0.3, help="Lowest score of an object, 0 .. 1.")
    run(parser, open_session, answer)
