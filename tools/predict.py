"""`attnzoo predict`: the classes, objects or masks of images, as text, JSON and annotated images."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import click
import timm
import timm.data
import torch
from PIL import Image

from attnzoo_command.devices import DeviceCommand, device_option
from attnzoo_command.steps import step

from .devices import choose_device, describe_device
from .files import check_writable, listed, replacing
from .finding import Skipped, find_images
from .images import EXTENSIONS, UnreadableImageError, apply_transform, read_image
from .lettering import note_not_drawn
from .models import RANDOM, check_model, is_random, stored_task
from .tasks import function_of
from .video import Drawings, is_video, read_frames


class Predictor(NamedTuple):
    """A model for prediction.

    Attributes:
        channels: number of channels of its images.
        transform: maps an image to a tensor (C, H, W), and what else the prediction needs.
        predict: maps what `transform` returns to `labels`, `scores`, and for a detector `boxes`, for each image.
    """

    channels: int
    transform: Callable[[Image.Image], Any]
    predict: Callable[[Sequence[Any]], list[dict[str, Any]]]


def predict(
    model: str,
    files: Sequence[Path],
    *,
    top: int = 5,
    least_score: float = 0.3,
    batch_size: int = 16,
    pretrained: bool = False,
    flip: bool = False,
    device: str = "auto",
) -> list[dict[str, Any]]:
    """Predicts the classes, objects or masks of images.

    Args:
        model: a directory that `attnzoo train` wrote, or a model name in timm.
        files: image files, and video files of which each frame is read.
        top: number of classes per image, for a classifier.
        least_score: minimum score of an object, 0 .. 1, for a detector.
        batch_size: images per batch.
        pretrained: load the published weights; for model names.
        flip: average with the prediction for the mirror image.
        device: name of the device to run on, see `attnzoo.tools.devices.choose_device`.

    Returns:
        A dictionary for each file, in order, with `file`, `labels` and `scores` (0 .. 1), the highest score first. For
        a detector it also has `boxes` (x1, y1, x2, y2 in pixels of the upright image) and `indices`, the numbers of the
        labels. For a segmenter the scores are the shares of the pixels, and it has `mask` (H, W), the class of each
        pixel, and `indices`. For a file that cannot be read it has `file` and `error` only. Frames of videos also have
        `frame`, their number, and `seconds`.

    Raises:
        ValueError: the model or the device is unknown, or `files` is empty.
    """
    options: Any = {"top": top, "least_score": least_score, "batch_size": batch_size}
    options |= {"pretrained": pretrained, "flip": flip}
    found = predictions(model, files, device=choose_device(device), **options)
    return [{key: value for key, value in entry.items() if key != "picture"} for entry in found]


def predictions(
    model: str,
    files: Sequence[Path],
    *,
    top: int,
    least_score: float,
    batch_size: int,
    pretrained: bool,
    flip: bool,
    device: torch.device,
) -> Iterator[dict[str, Any]]:
    """Yields what `predict` returns, after each batch, with the `picture` of each frame of a video."""
    import attnzoo  # noqa: F401  registers the models

    if not files:
        raise ValueError("no images were given")
    step(f"opening {model}")
    of_task = function_of(stored_task(model), "predict")
    predictor: Predictor = of_task(model, device, top=top, least_score=least_score, pretrained=pretrained, flip=flip)
    pictures, done = _pictures(files), 0
    # the number of frames is not known before they are read
    total = "" if any(map(is_video, files)) else f" of {len(files)}"
    while batch := list(itertools.islice(pictures, batch_size)):
        step(f"predicting images {done + 1} to {done + len(batch)}{total}")
        done += len(batch)
        found: list[dict[str, Any]] = []
        images: list[Any] = []
        for entry, source in batch:
            found.append(entry)
            if source is None:
                continue
            try:
                picture = read_image(source, predictor.channels, entry["file"])
                images.append(apply_transform(predictor.transform, entry["file"], picture))
            except UnreadableImageError as error:
                entry["error"] = str(error)
        readable = [entry for entry in found if "error" not in entry]
        for entry, predicted in zip(readable, predictor.predict(images) if images else [], strict=True):
            entry |= predicted
        yield from found


def _pictures(files: Sequence[Path]) -> Iterator[tuple[dict[str, Any], Path | Image.Image | None]]:
    """Yields the beginning of each result, and a file or a frame of a video; None if a video cannot be read."""
    for file in files:
        if not is_video(file):
            yield {"file": str(file)}, file
            continue
        try:
            for frame in read_frames(file):
                about = {"file": str(file), "frame": frame.number, "seconds": frame.seconds}
                yield {**about, "picture": frame.picture}, frame.picture
        except UnreadableImageError as error:
            yield {"file": str(file), "error": str(error)}, None


def open_classifier(
    model: str, device: torch.device, *, top: int, pretrained: bool, flip: bool = False, **_: Any
) -> Predictor:
    """Opens a classifier for prediction.

    Args:
        model: a directory that `attnzoo train` wrote, or a model name in timm.
        device: device to run on.
        top: number of classes per image.
        pretrained: load the published weights; for model names.
        flip: average with the prediction for the mirror image.
    """
    from .data import val_transform
    from .flips import FlippedClassifier
    from .models import open_model

    network, origin = open_model(model, pretrained=pretrained)
    wanted = timm.data.resolve_model_data_config(network)
    labels, transform = class_names(network, origin), val_transform(wanted)
    network = (FlippedClassifier(network) if flip else network).to(device).eval()

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
        ValueError: a folder cannot be read, or there are no images.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(map(Path, find_images(path, skipped)))
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} is neither a file nor a folder")
    if not found:
        raise ValueError(f"there are no images in {listed([str(path) for path in paths])} ({', '.join(EXTENSIONS)})")
    return found


@click.command("predict", cls=DeviceCommand, context_settings={"show_default": True})
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
@click.option("--flip", is_flag=True, help="Average with the prediction for the mirror image.")
@device_option
def predict_command(
    model: str, paths: tuple[Path, ...], output: Path | None, top: int, least_score: float, batch_size: int,
    pretrained: bool, flip: bool, device: str,
) -> None:  # fmt: skip
    """Predict the classes, the objects or the mask of images.

    MODEL is a directory that `attnzoo train` wrote, or the name of a classifier. IMAGE is an image or a video, or a
    folder that is searched for images. With --output, predictions.json and an annotated copy of each image or video are
    written to that folder, and by a segmenter the mask of each image as a palette PNG, whose values are the classes.

    Example: attnzoo predict runs/photographs/model holiday/ --output holiday-predictions
    """
    place = choose_device(device)
    files = pictures_in(paths, skipped := Skipped())
    if skipped.remarks:
        click.echo(skipped.remarks, err=True)
    check_model(model)
    if output is not None:
        check_writable(output, "choose another --output")
    options: Any = {"top": top, "least_score": least_score, "batch_size": batch_size}
    options |= {"pretrained": pretrained, "flip": flip}
    found: list[dict[str, Any]] = []
    draw = function_of(stored_task(model), "draw")
    with nullcontext() if output is None else Drawings(output, draw) as drawings:
        for number, entry in enumerate(predictions(model, files, device=place, **options)):
            if not number:
                click.echo(f"device: {describe_device(place)}", err=True)
            if not number and is_random(model, pretrained):
                click.echo(RANDOM, err=True)
            picture = entry.pop("picture", None)
            found.append(entry)
            if "error" in entry:
                click.echo(entry["error"], err=True)
                continue
            said = ", ".join(
                f"{name} {score:.1%}" for name, score in zip(entry["labels"], entry["scores"], strict=True)
            )
            moment = f", frame {entry['frame']}" if picture is not None else ""
            click.echo(f"{entry['file']}{moment}: {said or 'nothing found'}")
            if drawings is not None:
                drawings.add(number, entry, picture)
            # an array is not JSON
            entry.pop("mask", None)
    if output is not None:
        note_not_drawn(label for entry in found for label in entry.get("labels", ()))
        with replacing(output / "predictions.json") as fresh:
            fresh.write_text(json.dumps(found, indent=1) + "\n")
    if all("error" in entry for entry in found):
        raise click.ClickException("none of the images could be read")


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["predict", *sys.argv[1:]])
