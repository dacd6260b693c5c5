"""Drawings of images with their predicted classes in a strip below."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .files import replacing
from .images import read_image

# the longer side of a drawing is at least this long, so that labels can be read
SMALLEST_SIDE = 384
# and at most this long
_LARGEST_SIDE = 1024


def draw_classes(path: Path, found: Mapping[str, Any]) -> None:
    """Draws an image with its classes in a strip below it.

    Args:
        path: JPEG file to write; it is written atomically.
        found: `file`, `labels` and `scores`, as returned by `attnzoo.tools.predict.predict`.
    """
    with replacing(path) as fresh:
        _with_classes(_fitted(read_image(found["file"])), found).save(fresh, format="JPEG", quality=90)


def _with_classes(picture: Image.Image, found: Mapping[str, Any]) -> Image.Image:
    font = ImageFont.load_default(16)
    lines = [f"{score:6.1%}  {name}" for name, score in zip(found["labels"], found["scores"], strict=True)]
    drawn = Image.new("RGB", (picture.width, picture.height + 22 * len(lines) + 8), "white")
    drawn.paste(picture)
    pen = ImageDraw.Draw(drawn)
    for row, line in enumerate(lines):
        pen.text((8, picture.height + 4 + 22 * row), line, fill="black" if row == 0 else "#666666", font=font)
    return drawn


def _fitted(picture: Image.Image) -> Image.Image:
    """Resizes an image to a comfortable size for viewing, keeping its aspect ratio."""
    longest = max(picture.size)
    scale = min(1.0, _LARGEST_SIDE / longest) if longest > SMALLEST_SIDE else SMALLEST_SIDE / longest
    size = [max(1, round(length * scale)) for length in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)
