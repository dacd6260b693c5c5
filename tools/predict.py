"""`attnzoo predict`: the classes or objects in images, as text, JSON and annotated images."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import timm
import timm.data
import torch
from PIL import Image

from .files import check_writable, replacing
from .finding import Skipped, find_images
from .images import UnreadableImageError, apply_transform, read_image
from .models import RANDOM, is_random


class Predictor(NamedTuple):
    """A model for prediction.

    Attributes:
        channels: number of channels of its images.
        transform: maps an image to a tensor (C, H, W).
        predict: maps tensors to `labels`, `scores`, and for a detector `boxes`, for each image.
    """

    channels: int
    transform: Callable[[Image.Image], torch.Tensor]
    predict: Callable[[Sequence[torch.Tensor]], list[dict[str, Any]]]


def predict(
    model: str,
    files: Sequence[Path],
    *,
    top: int = 5,
    least_score: float = 0.3,
    batch_size: int = 16,
    pretrained: bool = False,
) -> list[dict[str, Any]]:
    """Predicts the classes or objects in images.

    Args:
        model: a directory that `attnzoo train` wrote, or a model name in timm.
        files: image files.
        top: number of classes per image, for a classifier.
        least_score: minimum score of an object, 0 .. 1, for a detector.
        batch_size: images per batch.
        pretrained: load the published weights; for model names.

    Returns:
        A dictionary for each file, in order, with `file`, `labels` and `scores` (0 .. 1), the highest score first. For
        a detector it also has `boxes` (x1, y1, x2, y2 in pixels of the upright image). For a file that cannot be read
        it has `file` and `error` only.

    Raises:
        ValueError: the model is unknown, or `files` is empty.
    """
    options: Any = {"top": top, "least_score": least_score, "batch_size": batch_size, "pretrained": pretrained}
    return list(predictions(model, files, **options))


def predictions(
    model: str, files: Sequence[Path], *, top: int, least_score: float, batch_size: int, pretrained: bool
) -> Iterator[dict[str, Any]]:
    """Yields what `predict` returns, after each batch."""
    import attnzoo  # noqa: F401  registers the models

    from .models import is_detector

    if not files:
        raise ValueError("no images were given")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if is_detector(model):
        from .detection.prediction import open_for_prediction

        predictor = open_for_prediction(Path(model), least_score, device)
    else:
        predictor = _open_classifier(model, pretrained, top, device)
    for begin in range(0, len(files), batch_size):
        found: list[dict[str, Any]] = []
        images: list[torch.Tensor] = []
        for file in files[begin : begin + batch_size]:
            found.append({"file": str(file)})
            try:
                picture = read_image(file, predictor.channels)
                images.append(apply_transform(predictor.transform, str(file), picture))
            except UnreadableImageError as error:
                found[-1]["error"] = str(error)
        readable = [entry for entry in found if "error" not in entry]
        for entry, predicted in zip(readable, predictor.predict(images) if images else [], strict=True):
            entry |= predicted
        yield from found


def _open_classifier(model: str, pretrained: bool, top: int, device: torch.device) -> Predictor:
    from .data import val_transform
    from .models import open_model

    network, origin = open_model(model, pretrained=pretrained)
    wanted = timm.data.resolve_model_data_config(network)
    labels, transform = class_names(network, origin), val_transform(wanted)
    network.to(device).eval()

    @torch.inference_mode()
    def classify(images: Sequence[torch.Tensor]) -> list[dict[str, Any]]:
        scores, classes = (
            network(torch.stack(list(images)).to(device)).float().softmax(1).cpu().topk(min(top, len(labels)))
        )
        return [
            {"labels": [labels[i] for i in chosen], "scores": values}
            for values, chosen in zip(scores.tolist(), classes.tolist(), strict=True)
        ]

    return Predictor(wanted["input_size"][0], transform, classify)


def class_names(network: Any, origin: dict[str, str]) -> list[str]:
    """Returns the class names of a model: its own labels, ImageNet's for published ImageNet weights, or indices."""
    labels = network.pretrained_cfg.get("label_names")
    if labels and len(labels) == network.num_classes:
        return [str(label) for label in labels]
    if "labels" in origin:
        return [str(label) for label in json.loads(origin["labels"])]
    return [str(i) for i in range(network.num_classes)]


def pictures_in(paths: Sequence[Path], skipped: Skipped) -> list[Path]:
    """Returns the given files, and the images in the given folders, sorted.

    Args:
        paths: files and folders.
        skipped: counts the files in folders that are not images, or hidden.

    Raises:
        FileNotFoundError: a path is neither a file nor a folder.
        ValueError: a folder cannot be read.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(map(Path, find_images(path, skipped)))
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} is neither a file nor a folder")
    return found


def _draw(path: Path, found: dict[str, Any]) -> None:
    if "boxes" in found:
        from .detection.drawing import draw_found

        draw_found(path, found)
    else:
        from .drawing import draw_classes

        draw_classes(path, found)


@click.command("predict", context_settings={"show_default": True})
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for predictions.json and annotated images.",
)
@click.option("--top", type=click.IntRange(1), default=5, help="Number of classes per image; for classifiers.")
@click.option(
    "--least-score", type=click.FloatRange(0, 1), default=0.3, help="Minimum score of an object; for detectors."
)
@click.option("--batch-size", type=click.IntRange(1), default=16, help="Images per batch.")
@click.option("--pretrained", is_flag=True, help="Load the published weights; for model names.")
def predict_command(
    model: str, paths: tuple[Path, ...], output: Path | None, top: int, least_score: float, batch_size: int,
    pretrained: bool,
) -> None:  # fmt: skip
    """Predict the classes or the objects in images.

    MODEL is a directory that `attnzoo train` wrote, of a classifier or a detector, or the name of a classifier. IMAGE
    is a file, or a folder that is searched for images. With --output, predictions.json and an annotated copy of each
    image are written to that folder.

    Example: attnzoo predict runs/photographs/model holiday/ --output holiday-predictions
    """
    files = pictures_in(paths, skipped := Skipped())
    if skipped.remarks:
        click.echo(skipped.remarks, err=True)
    if output is not None:
        check_writable(output, "choose another --output")
    options: Any = {"top": top, "least_score": least_score, "batch_size": batch_size, "pretrained": pretrained}
    found: list[dict[str, Any]] = []
    for number, entry in enumerate(predictions(model, files, **options)):
        if not number and is_random(model, pretrained):
            click.echo(RANDOM, err=True)
        found.append(entry)
        if "error" in entry:
            click.echo(entry["error"], err=True)
            continue
        said = ", ".join(f"{name} {score:.1%}" for name, score in zip(entry["labels"], entry["scores"], strict=True))
        click.echo(f"{entry['file']}: {said or 'nothing found'}")
        if output is not None:
            # numbered, because images in two folders may have the same name
            _draw(output / f"{number:05d}-{Path(entry['file']).stem}.jpg", entry)
    if output is not None:
        with replacing(output / "predictions.json") as fresh:
            fresh.write_text(json.dumps(found, indent=1) + "\n")
    if all("error" in entry for entry in found):
        raise click.ClickException("none of the images could be read")


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["predict", *sys.argv[1:]])
