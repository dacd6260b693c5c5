"""Pictures that show what was found in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from .files import replacing
from .images import read_image

# longest side of a picture that is drawn on, in pixels
_LARGEST = 1024
_SMALLEST = 256


def draw_classes(path: Path, found: dict[str, Any]) -> None:
    """Draws a picture with its classes in a strip below it.

    Args:
        path: JPEG file to write.
        found: `file`, `labels` and `scores`, as `attnzoo.tools.predict.predict` gives them.
    """
    picture = fitted(read_image(found["file"]))
    font = ImageFont.load_default(16)
    lines = [f"{score:6.1%}  {name}" for name, score in zip(found["labels"], found["scores"], strict=True)]
    drawn = Image.new("RGB", (picture.width, picture.height + 22 * len(lines) + 8), "white")
    drawn.paste(picture)
    pen = ImageDraw.Draw(drawn)
    for row, line in enumerate(lines):
        pen.text((8, picture.height + 4 + 22 * row), line, fill="black" if row == 0 else "#666666", font=font)
    save(drawn, path)


def fitted(picture: Image.Image) -> Image.Image:
    """A picture of a size that is comfortable to look at, in its proportions."""
    longest = max(picture.size)
    scale = min(1.0, _LARGEST / longest) if longest > _SMALLEST else _SMALLEST / longest
    size = [max(1, round(length * scale)) for length in picture.size]
    return picture.resize((size[0], size[1]), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST)


def save(picture: Image.Image, path: Path) -> None:
    """Writes a JPEG file, whole or not at all."""
    with replacing(path) as fresh:
        picture.save(fresh, format="JPEG", quality=90)
