"""Drawings of images with their predicted classes in a strip below."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from .files import replacing
from .images import read_image
from .lettering import font_of

# the longer side of a drawing is at least this long, so that labels can be read
SMALLEST_SIDE = 384
# and at most this long
_LARGEST_SIDE = 1024
# the strip below an image is at most this wide: longer text is cut
_WIDEST = 2048
# height of the line of a class and of its letters, and light colours of bars, on which text can be read
LINE, FONT_SIZE = 22, 16
_BAR, _RIGHT, _WRONG = "#c5d9f1", "#bfe5c5", "#f5c6c0"


def draw_classes(path: Path, found: Mapping[str, Any]) -> None:
    """Draws an image with its classes and their probabilities in a strip below it.

    Args:
        path: JPEG file to write; it is written atomically.
        found: `file`, `labels` and `scores`, as returned by `attnzoo.tools.predict.predict`.
    """
    with replacing(path) as fresh:
        drawn = draw_probabilities(read_image(found["file"]), found["labels"], found["scores"])
        drawn.save(fresh, format="JPEG", quality=90)


def draw_probabilities(
    picture: Image.Image,
    labels: Sequence[str],
    scores: Sequence[float],
    truth: str | None = None,
    score_of_truth: float = 0.0,
) -> Image.Image:
    """Returns an image with a strip below it that has a line for each class, with a bar as long as its probability.

    Args:
        picture: the image.
        labels: class names, the most probable first.
        scores: their probabilities.
        truth: the true class, whose bar is green, and those of others red; it gets a line if it is not in `labels`.
        score_of_truth: its probability.
    """
    lines = list(zip(labels, scores, strict=True))
    if truth is not None and truth not in labels:
        lines.append((truth, score_of_truth))
    said = [f"{score:6.1%}  {name}" + (" (true)" if name == truth else "") for name, score in lines]
    picture = fitted(picture)
    drawn = with_strip(picture, said, indent=8)
    pen = ImageDraw.Draw(drawn)
    for row, (name, score) in enumerate(lines):
        top = picture.height + 4 + LINE * row
        colour = _BAR if truth is None else _RIGHT if name == truth else _WRONG
        pen.rectangle((0, top, round(score * (drawn.width - 1)), top + LINE - 4), fill=colour)
        pen.text((8, top), said[row], fill="black", font=font_of(FONT_SIZE))
    return drawn


def with_strip(picture: Image.Image, lines: Sequence[str], indent: int) -> Image.Image:
    """Returns an image with a white strip below it, in which lines of text that begin at `indent` have room."""
    pen = ImageDraw.Draw(picture)
    ends = [pen.textbbox((indent, 0), line, font=font_of(FONT_SIZE))[2] + indent for line in lines]
    width = max(picture.width, min(_WIDEST, math.ceil(max(ends, default=0))))
    drawn = Image.new("RGB", (width, picture.height + LINE * len(lines) + 8), "white")
    drawn.paste(picture)
    return drawn


def fitted(picture: Image.Image) -> Image.Image:
    """Resizes an image to a comfortable size for viewing, keeping its aspect ratio."""
    longest = max(picture.size)
    scale = min(1.0, _LARGEST_SIDE / longest) if longest > SMALLEST_SIDE else SMALLEST_SIDE / longest
    size = [max(1, round(length * scale)) for length in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
