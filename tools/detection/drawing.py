"""Drawing images with boxes: detections, and the images where they differ most from the ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ..drawing import SMALLEST_SIDE
from ..files import replacing
from ..images import read_image
from .data import BoxedImages
from .metrics import JudgedPicture, Report

# colours of ground truth and detections
TRUTH_COLOUR, FOUND_COLOUR = (0, 200, 70), (255, 60, 60)

# largest number of detections that are drawn, the most certain first: more of them hide the image
MOST_DRAWN = 20

# size of a label's font, and height of its background, in pixels
_FONT, _HEIGHT = 12, 14

# smallest intersection over union with an object for a detection to match it
_OVERLAP = 0.5


def draw_found(path: Path, found: Mapping[str, Any]) -> None:
    """Draws an image with its MOST_DRAWN best detections.

    Args:
        path: JPEG file to write, atomically.
        found: `file`, `labels`, `scores` and `boxes`, as returned by `attnzoo.tools.predict.predict`.
    """
    names = sorted(set(found["labels"]))
    numbered = {**found, "labels": [names.index(label) for label in found["labels"]]}
    with replacing(path) as fresh:
        drawn = draw_objects(read_image(found["file"]), numbered, names, least_score=0)
        drawn.save(fresh, format="JPEG", quality=90)


def draw_objects(
    picture: Image.Image,
    found: Mapping[str, Any],
    classes: Sequence[str],
    truth: Mapping[str, Any] | None = None,
    least_score: float = 0.3,
) -> Image.Image:
    """A copy of an image with its MOST_DRAWN best detections, drawn over the ground truth if it is known.

    Labels do not cover each other: a label that has no room at its box is left out.

    Args:
        picture: the image, in the pixels of the boxes.
        found: `boxes` (N, 4), x1 y1 x2 y2, `labels` (N) from 0 and `scores` (N), tensors or arrays.
        classes: names of the labels.
        truth: `boxes` and `labels` of the ground truth.
        least_score: detections with a lower score are not drawn.
    """
    scale = max(1, -(-SMALLEST_SIDE // max(picture.size)))
    canvas = picture.convert("RGB").resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    scores = [float(score) for score in found["scores"]]
    kept = [i for i in sorted(range(len(scores)), key=lambda i: -scores[i]) if scores[i] >= least_score]
    names = [classes[int(label)] for label in found["labels"]]
    boxes = [(found["boxes"][i], f"{names[i]} {scores[i]:.2f}", FOUND_COLOUR) for i in kept[:MOST_DRAWN]]
    if truth is not None:
        boxes += [(box, classes[int(i)], TRUTH_COLOUR) for box, i in zip(truth["boxes"], truth["labels"], strict=True)]
    scaled = [(tuple(float(x) * scale for x in box), text, colour) for box, text, colour in boxes]
    # the ground truth first and the best detection last, on top
    for (left, top, right, bottom), _, colour in reversed(scaled):
        corner = max(left, right - 1), max(top, bottom - 1)
        draw.rectangle((left, top, *corner), outline=colour, width=2)
    taken: list[tuple[float, float, float, float]] = []
    for box, text, colour in scaled:
        _draw_label(draw, box, text, colour, canvas.size, taken)
    return canvas


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
    colour: tuple[int, int, int],
    size: tuple[int, int],
    taken: list[tuple[float, float, float, float]],
) -> None:
    """Draws a label at the first place at its box that is free, and adds the place to `taken`."""
    font = ImageFont.load_default(size=_FONT)
    width = draw.textlength(text, font=font) + 2
    place = next((at for at in _places(box, width, size, colour == TRUTH_COLOUR) if _is_free(at, taken)), None)
    if place is None:
        return
    taken.append(place)
    draw.rectangle(place, fill=colour)
    draw.text((place[0] + 1, place[1]), text, fill="black" if colour == TRUTH_COLOUR else "white", font=font)


def _places(
    box: Sequence[float], width: float, size: tuple[int, int], is_below: bool
) -> Iterator[tuple[float, float, float, float]]:
    """Yields places for a label within the image: above the top and below it, above the bottom and below it."""
    left, top, right, bottom = box
    above, below = (top - _HEIGHT, top), (bottom - _HEIGHT, bottom)
    for y in (*below, *above) if is_below else (*above, *below):
        for x in (left, right - width):
            x = min(max(x, 0.0), max(0.0, size[0] - width))
            if 0 <= y <= size[1] - _HEIGHT:
                yield x, y, x + width, y + _HEIGHT


def _is_free(place: tuple[float, float, float, float], taken: Sequence[tuple[float, float, float, float]]) -> bool:
    left, top, right, bottom = place
    return all(left >= x2 or right <= x1 or top >= y2 or bottom <= y1 for x1, y1, x2, y2 in taken)
