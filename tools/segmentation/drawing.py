"""Drawing masks over images: predictions, and the images where most pixels are wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from torch import nn

from ..drawing import FONT_SIZE, LINE, fitted, with_strip
from ..files import replacing
from ..images import read_image
from ..lettering import font_of
from .data import SegmentedImages
from .sources import IGNORED
from .windows import resized, segment

# share of the colour of a class in a drawing
_OPACITY = 0.55
# share of black, the colour of class 0, most often the background, so that the image stays visible
_OPACITY_OF_BLACK = 0.15
# the parts of a drawing of an image with many wrong pixels
_PANELS = ("image", "ground truth", "prediction")


def palette(count: int) -> NDArray[np.uint8]:
    """Colours of classes (count, 3), those of PASCAL VOC: the bits of an index, spread over the three channels."""
    index = np.arange(count)[:, None]
    shifts = np.arange(8)[:, None, None]
    # the bits 0, 1, 2 of every three go to red, green and blue, the lowest first into the highest bit of a colour
    bits = (index >> (3 * shifts + np.arange(3))) & 1
    colours: NDArray[np.uint8] = (bits << (7 - shifts)).sum(0).astype(np.uint8)
    return colours


def draw_mask(path: Path, found: Mapping[str, Any]) -> None:
    """Draws an image with its mask over it and a legend, and writes the mask itself beside it as a palette PNG.

    Args:
        path: JPEG file to write, atomically; the mask has the same name and the extension .png.
        found: `file`, `labels`, `scores`, `indices` and `mask`, as `attnzoo.tools.predict.predict` returns them.
    """
    mask, colours = found["mask"], palette(int(max(found["mask"].max(), max(found["indices"]))) + 1)
    drawn = fitted(overlaid(read_image(found["file"]), mask, colours))
    with replacing(path) as fresh:
        _with_legend(drawn, found, colours).save(fresh, format="JPEG", quality=90)
    with replacing(path.with_suffix(".png")) as fresh:
        index_image(mask, colours).save(fresh, format="PNG")


def _with_legend(picture: Image.Image, found: Mapping[str, Any], colours: NDArray[np.uint8]) -> Image.Image:
    """An image with the colour, the share and the name of each class in a strip below it."""
    said = [f"{share:6.1%}  {name}" for name, share in zip(found["labels"], found["scores"], strict=True)]
    drawn = with_strip(picture, said, indent=32)
    pen = ImageDraw.Draw(drawn)
    for row, (i, line) in enumerate(zip(found["indices"], said, strict=True)):
        top = picture.height + 4 + LINE * row
        pen.rectangle((8, top + 2, 24, top + 18), fill=tuple(map(int, colours[i])), outline="#666666")
        pen.text((32, top), line, fill="black", font=font_of(FONT_SIZE))
    return drawn


def index_image(mask: NDArray[Any], colours: NDArray[np.uint8]) -> Image.Image:
    """A mask (H, W) as a palette image whose values are the labels; with more than 256 classes it is 16-bit grey."""
    if mask.max() > 255:
        return Image.fromarray(mask.astype(np.uint16))
    image = Image.fromarray(mask.astype(np.uint8))
    image.putpalette(colours[:256].tobytes())
    return image


def overlaid(picture: Image.Image, mask: NDArray[Any], colours: NDArray[np.uint8]) -> Image.Image:
    """An image with the colours of its classes over it; ignored pixels stay as they are."""
    pixels, index = np.asarray(picture.convert("RGB")), np.maximum(mask, 0)
    opacity = np.where(colours.any(1), _OPACITY, _OPACITY_OF_BLACK)[index][..., None]
    mixed = (1 - opacity) * pixels + opacity * colours[index]
    return Image.fromarray(np.where(mask[..., None] == IGNORED, pixels, mixed).round().astype(np.uint8))


def draw_worst_cases(
    network: nn.Module, wrong: Mapping[str, float], samples: SegmentedImages, directory: Path, count: int = 16
) -> list[Path]:
    """Writes the images with the largest share of wrong pixels, worst first: image, ground truth and prediction.

    Args:
        network: the segmenter.
        wrong: share of wrong pixels by the name of an image.
        samples: the samples that were evaluated.
        directory: folder for `01-NAME.png` and so on; created if it does not exist.
        count: largest number of images.

    Returns:
        The written files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    places = {samples.source.name(i): i for i in range(len(samples))}
    colours, device = palette(len(samples.classes)), next(network.parameters()).device
    paths = []
    for rank, name in enumerate(sorted(wrong, key=lambda name: -wrong[name])[:count], 1):
        index = places[name]
        picture, truth = samples.source.picture(index, samples.prepare.channels), samples.source.mask(index)
        images = [samples.prepare(picture).to(device)]
        logits = resized(segment(network, images, samples.prepare.size)[0], truth.shape)
        found = logits.argmax(0).cpu().numpy()
        path = directory / f"{rank:02d}-{Path(name).stem}.png"
        with replacing(path) as fresh:
            _beside([picture.convert("RGB"), *(overlaid(picture, mask, colours) for mask in (truth, found))]).save(
                fresh, format="PNG"
            )
        paths.append(path)
    return paths


def _beside(pictures: Sequence[Image.Image]) -> Image.Image:
    """Images of one size in a row, with the name of each below."""
    width, height = pictures[0].size
    row = Image.new("RGB", (width * len(pictures), height))
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * width, 0))
    row = fitted(row)
    drawn = Image.new("RGB", (row.width, row.height + LINE), "white")
    drawn.paste(row)
    pen, part = ImageDraw.Draw(drawn), row.width / len(pictures)
    # small enough for the longest name
    font = font_of(max(1, min(14, int(part / 7))))
    for i, name in enumerate(_PANELS):
        pen.text(((i + 0.5) * part, row.height + LINE / 2), name, fill="black", font=font, anchor="mm")
    return drawn
