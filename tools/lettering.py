"""The font of drawings, which has letters of many scripts."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from pathlib import Path

import click
from PIL import ImageFont

# a code point that is no character, which every font draws with the glyph of missing ones
_NO_CHARACTER = "\uffff"


@functools.cache
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns DejaVu Sans, which matplotlib brings, or, without matplotlib, Pillow's font, which has Latin letters.

    Args:
        size: size in pixels.
    """
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        return ImageFont.load_default(size)
    return ImageFont.truetype(str(Path(found.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def not_drawn(texts: Iterable[str]) -> str:
    """Returns the characters of texts for which the font has no glyph, each once; they are drawn as boxes."""
    font = font_of(16)
    box = bytes(font.getmask(_NO_CHARACTER))
    characters = sorted({character for text in texts for character in text if not character.isspace()})
    return "".join(character for character in characters if bytes(font.getmask(character)) == box)


def note_not_drawn(texts: Iterable[str], shown: int = 20) -> None:
    """Says on stderr which characters of texts are drawn as boxes, if there are any."""
    if missing := not_drawn(texts):
        more = f" and {len(missing) - shown} more" if len(missing) > shown else ""
        click.echo(f"note: the font of drawings has no {missing[:shown]}{more}: they are drawn as boxes", err=True)
