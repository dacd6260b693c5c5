"""Drawing images with boxes: detections, and the images where they differ most from the ground truth."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..drawing import SMALLEST_SIDE
from ..files import replacing
from ..images import read_image
from ..lettering import font_of
from .data import BoxedImages
from .metrics import JudgedPicture, Report

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]

# colours of ground truth and of the detections beside it
TRUTH_COLOUR, FOUND_COLOUR = (0, 200, 70), (255, 60, 60)

# largest number of detections that are drawn, the most certain first: more of them hide the image
MOST_DRAWN = 20

# multiples of it, modulo 1, are spread evenly
_GOLDEN_RATIO = 0.618034

# size of a label's font, and height of its background, in pixels
_FONT, _HEIGHT = 12, 14

# smallest intersection over union with an object for a detection to match it
_OVERLAP = 0.5


def draw_found(path: Path, found: Mapping[str, Any]) -> None:
    """Draws an image with its MOST_DRAWN best detections, and below it the number of all detections of each class.

    Args:
        path: JPEG file to write, atomically.
        found: `file`, `labels`, `indices`, `scores` and `boxes`, as returned by `attnzoo.tools.predict.predict`.
    """
    names = dict(zip(found["indices"], found["labels"], strict=True))
    with replacing(path) as fresh:
        numbered = {**found, "labels": found["indices"]}
        drawn = draw_objects(read_image(found["file"]), numbered, names, least_score=0)
        _with_counts(drawn, Counter(found["indices"]), names).save(fresh, format="JPEG", quality=90)


def draw_objects(
    picture: Image.Image,
    found: Mapping[str, Any],
    classes: Sequence[str] | Mapping[int, str],
    truth: Mapping[str, Any] | None = None,
    least_score: float = 0.3,
) -> Image.Image:
    """A copy of an image with its MOST_DRAWN best detections, each in the colour of its class.

    If the ground truth is known, it is drawn in TRUTH_COLOUR and the detections over it in FOUND_COLOUR. Labels do not
    cover each other, and stand where they cover the least of the objects: a label that has no room is left out.

    Args:
        picture: the image, in the pixels of the boxes.
        found: `boxes` (N, 4), x1 y1 x2 y2, `labels` (N) from 0 and `scores` (N), tensors, arrays or lists.
        classes: names of the labels.
        truth: `boxes` and `labels` of the ground truth.
        least_score: detections with a lower score are not drawn.
    """
    scale = max(1, -(-SMALLEST_SIDE // max(picture.size)))
    canvas = picture.convert("RGB").resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    # in this mode, colours with alpha are blended with the image
    draw = ImageDraw.Draw(canvas, "RGBA")
    scores, labels = ([float(x) for x in found["scores"]], [int(x) for x in found["labels"]])
    kept = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if scores[i] >= least_score]
    boxes = [
        (found["boxes"][i], f"{classes[labels[i]]} {scores[i]:.2f}", FOUND_COLOUR if truth else colour_of(labels[i]))
        for i in kept[:MOST_DRAWN]
    ]
    if truth is not None:
        boxes += [(box, classes[int(i)], TRUTH_COLOUR) for box, i in zip(truth["boxes"], truth["labels"], strict=True)]
    scaled = [(tuple(float(x) * scale for x in box), text, colour) for box, text, colour in boxes]
    # the ground truth first and the best detection last, on top
    for (left, top, right, bottom), _, colour in reversed(scaled):
        corner = max(left, right - 1), max(top, bottom - 1)
        draw.rectangle((left, top, *corner), outline=colour, width=2)
    objects = [box for box, _, _ in scaled]
    taken: list[Box] = []
    for box, text, colour in scaled:
        _draw_label(draw, box, text, colour, canvas.size, taken, objects)
    return canvas


def colour_of(label: int) -> Colour:
    """Returns the colour of a class: hues of neighbouring labels are far apart."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN_RATIO % 1, 0.85, 0.9)
    return round(255 * red), round(255 * green), round(255 * blue)


def _with_counts(picture: Image.Image, counts: Mapping[int, int], names: Mapping[int, str]) -> Image.Image:
    """Returns an image with a strip below it that has the number of objects of each class."""
    font = font_of(_FONT)
    entries = [(colour_of(i), f"{counts[i]} {names[i]}") for i in sorted(counts, key=lambda i: (-counts[i], i))]
    places: list[tuple[float, int]] = []
    left, row = 4.0, 0
    for _, text in entries:
        width = 2 * _HEIGHT + font.getlength(text)
        if left > 4 and left + width > picture.width:
            left, row = 4.0, row + 1
        places.append((left, row))
        left += width
    if not entries:
        return picture
    drawn = Image.new("RGB", (picture.width, picture.height + 4 + (row + 1) * (_HEIGHT + 4)), "white")
    drawn.paste(picture)
    draw = ImageDraw.Draw(drawn)
    for (colour, text), (x, line) in zip(entries, places, strict=True):
        top = picture.height + 4 + line * (_HEIGHT + 4)
        draw.rectangle((x, top + 2, x + _HEIGHT - 4, top + _HEIGHT - 2), fill=colour)
        draw.text((x + _HEIGHT, top), text, fill="black", font=font)
    return drawn


def draw_worst_cases(
    report: Report, samples: BoxedImages, directory: Path, count: int = 16, least_score: float = 0.3
) -> list[Path]:
    """Writes the images with the most errors, worst first: ground truth in green, detections in red.

    Args:
        report: report of `DetectionJudge`.
        samples: the samples that were evaluated.
        directory: folder for `01-NAME.png` and so on; created if it does not exist.
        count: largest number of images.
        least_score: detections with a lower score are ignored.

    Returns:
        The written files.
    """
    directory.mkdir(parents=True, exist_ok=True)
    places = {samples.source.identity(i): i for i in range(len(samples))}
    worst = sorted(report.pictures, key=lambda picture: (-mistakes(picture, least_score), picture.image_id))
    paths = []
    for rank, judged in enumerate(worst[:count], 1):
        picture = samples.source.picture(places[judged.image_id], samples.channels)
        drawn = draw_objects(picture, judged.found, samples.classes, judged.truth, least_score)
        path = directory / f"{rank:02d}-{Path(judged.name).stem}.png"
        with replacing(path) as fresh:
            drawn.save(fresh, format="PNG")
        paths.append(path)
    return paths


def mistakes(picture: JudgedPicture, least_score: float = 0.3) -> int:
    """Number of missed objects and of false detections, not counting crowds."""
    real = ~picture.truth["iscrowd"]
    boxes, labels = picture.truth["boxes"][real], picture.truth["labels"][real]
    is_unmatched, false_alarms = np.ones(len(boxes), dtype=np.bool_), 0
    crowds = picture.truth["boxes"][~real]
    for row in np.argsort(-picture.found["scores"], kind="stable"):
        if picture.found["scores"][row] < least_score:
            break
        box = picture.found["boxes"][row]
        overlaps = _overlaps(box, boxes) * is_unmatched * (labels == picture.found["labels"][row])
        if overlaps.size and overlaps.max() >= _OVERLAP:
            is_unmatched[overlaps.argmax()] = False
        elif not (_overlaps(box, crowds, of_box=True) >= _OVERLAP).any():
            false_alarms += 1
    return int(is_unmatched.sum()) + false_alarms


def _overlaps(box: NDArray[Any], others: NDArray[Any], of_box: bool = False) -> NDArray[Any]:
    """Intersection of a box with others, divided by their union or by the area of the box."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    own = (box[2:] - box[:2]).prod()
    whole = own if of_box else own + (others[:, 2:] - others[:, :2]).prod(axis=1) - shared
    return shared / np.maximum(whole, 1e-9)


def _draw_label(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    text: str,
    colour: Colour,
    size: tuple[int, int],
    taken: list[Box],
    objects: Sequence[Sequence[float]],
) -> None:
    """Draws a label at the free place at its box that covers the least of the objects, and adds it to `taken`."""
    font = font_of(_FONT)
    width = draw.textlength(text, font=font) + 2
    free = [at for at in _places(box, width, size, colour == TRUTH_COLOUR) if _is_free(at, taken)]
    if not free:
        return
    place = min(free, key=lambda at: _covered(at, objects))
    taken.append(place)
    # what a label has to cover remains visible
    draw.rectangle(place, fill=(*colour, 160 if _covered(place, objects) else 255))
    is_light = 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] > 140
    draw.text((place[0] + 1, place[1]), text, fill="black" if is_light else "white", font=font)


def _places(box: Sequence[float], width: float, size: tuple[int, int], is_below: bool) -> Iterator[Box]:
    """Yields places for a label within the image: above and below the box, beside it, and in it."""
    left, top, right, bottom = box
    outside, inside = (top - _HEIGHT, bottom), (top, bottom - _HEIGHT)
    for y in reversed(outside) if is_below else outside:
        for x in (left, right - width):
            yield from _within(x, y, width, size)
    for y in inside:
        for x in (right, left - width, left, right - width):
            yield from _within(x, y, width, size)


def _within(x: float, y: float, width: float, size: tuple[int, int]) -> Iterator[Box]:
    x = min(max(x, 0.0), max(0.0, size[0] - width))
    if 0 <= y <= size[1] - _HEIGHT:
        yield x, y, x + width, y + _HEIGHT


def _covered(place: Box, objects: Sequence[Sequence[float]]) -> float:
    """Returns the area of the objects that a label at a place covers; an object below another one counts again."""
    left, top, right, bottom = place
    sides = ((min(right, x2) - max(left, x1), min(bottom, y2) - max(top, y1)) for x1, y1, x2, y2 in objects)
    return sum(max(0.0, width) * max(0.0, height) for width, height in sides)


def _is_free(place: Box, taken: Sequence[Box]) -> bool:
    left, top, right, bottom = place
    return all(left >= x2 or right <= x1 or top >= y2 or bottom <= y1 for x1, y1, x2, y2 in taken)
