"""Pictures of the images that a classifier gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .data import ClassifiedImages
from .drawing import draw_probabilities
from .files import replacing
from .images import read_image
from .metrics import JudgedImage


def draw_mistakes(
    judged: Sequence[JudgedImage], samples: ClassifiedImages, folder: Path, count: int = 16
) -> list[Path]:
    """Writes the worst images and the most confident mistakes, the worst first, with their probabilities.

    Args:
        judged: the images that were evaluated.
        samples: the samples that were evaluated.
        folder: existing folder for `worst-01-NAME.jpg` ..., the images whose true class has the lowest probability, and
            `confident-01-NAME.jpg` ..., those whose wrong class has the highest one.
        count: largest number of images of each kind.

    Returns:
        The written files.
    """
    places = {samples.source.name(index): index for index in range(len(samples))}
    wrong = [image for image in judged if image.classes[0] != image.label]
    ranked = {
        "worst": sorted(judged, key=lambda image: image.score_of_truth),
        "confident": sorted(wrong, key=lambda image: -image.scores[0]),
    }
    written = []
    for kind, images in ranked.items():
        for rank, image in enumerate(images[:count], 1):
            source, _ = samples.source.open(places[image.name])
            with source:
                picture = read_image(source, samples.channels, image.name)
            path = folder / f"{kind}-{rank:02d}-{Path(image.name).stem.replace(' ', '-')}.jpg"
            names, truth = [samples.classes[index] for index in image.classes], samples.classes[image.label]
            with replacing(path) as fresh:
                drawn = draw_probabilities(picture, names, image.scores, truth, image.score_of_truth)
                drawn.save(fresh, format="JPEG", quality=90)
            written.append(path)
    return written
