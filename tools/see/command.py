"""`attnzoo see`: what a network attends to in images, as pictures and pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import click

from attnzoo_command.devices import DeviceCommand, device_option

from ..devices import choose_device
from ..files import check_writable
from ..finding import Skipped
from ..images import UnreadableImageError
from ..models import RANDOM, check_model, is_random
from ..predict import pictures_in
from . import figure, page
from .scenes import Scene, open_viewer


def see(
    model: str,
    files: Sequence[Path],
    output: Path,
    *,
    layers: Sequence[str | int] = (),
    query: tuple[int, int] | None = None,
    pretrained: bool = False,
    device: str = "auto",
) -> list[Path]:
    """Draws what a model attends to in images: a PNG and an HTML file for each.

    Args:
        model: a directory that `attnzoo train` wrote, of a classifier or a detector, or a model name in timm.
        files: image files.
        output: directory for the files; it is made.
        layers: names or indices of attention layers; empty for the last layer of up to four stages.
        query: (row, column) in pixels of the image as the network sees it; None for the three positions with the
            highest Grad-CAM.
        pretrained: load the published weights of a model name.
        device: name of the device to run on, see `attnzoo.tools.devices.choose_device`.

    Returns:
        The PNG files, in the order of the images.

    Raises:
        ValueError: the model, a layer or the query is not possible, or an image cannot be read.
    """
    view = open_viewer(model, layers, pretrained=pretrained, device=choose_device(device))
    written = []
    for number, file in enumerate(files):
        click.echo(f"{file}: computing what positions attend to", err=True)
        scene = view(file)
        queries = scene.telling()
        if query is not None:
            height, width = scene.picture.shape[:2]
            if not (0 <= query[0] < height and 0 <= query[1] < width):
                raise ValueError(f"query must be within {height} x {width} pixels, got {query[0]},{query[1]}")
            queries = [query]
        # created when the model, the layers and the query are known
        check_writable(output, "choose another --output")
        # numbered, because images in two folders may have the same name
        path = output / f"{number:05d}-{file.stem}.png"
        figure.draw(path, scene, queries)
        page.write(path.with_suffix(".html"), scene, queries[0])
        written.append(path)
        for note in _notes(model, scene) if number == 0 else ():
            click.echo(note, err=True)
    return written


def _notes(model: str, scene: Scene) -> Iterator[str]:
    """What must be known to read a scene."""
    if not scene.layers:
        yield f"{model} has no attention that is known: only Grad-CAM is drawn, of the layer {scene.cam_layer}"
    if scene.cam_size == (1, 1):
        height, width, _ = scene.picture.shape
        yield (
            f"Grad-CAM is the same everywhere, because the last map of {model} has one position at {height} x {width} "
            "pixels: see its attention, or a model that was trained on larger images"
        )


@click.command("see", cls=DeviceCommand, context_settings={"show_default": True})
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="IMAGE...")
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), default=Path("seen"), help="Folder for the files."
)
@click.option(
    "--layer",
    "layers",
    multiple=True,
    metavar="NAME|INDEX",
    help="Attention layer to show, which may be given several times.  [default: the last of up to four stages]",
)
@click.option(
    "--query",
    metavar="ROW,COLUMN",
    help="Position whose attention is shown, in pixels of the image as the network sees it.  "
    "[default: the three positions with the highest Grad-CAM]",
)
@click.option("--pretrained", is_flag=True, help="Load the published weights; for model names.")
@device_option
def see_command(
    model: str, paths: tuple[Path, ...], output: Path, layers: tuple[str, ...], query: str | None, pretrained: bool,
    device: str,
) -> None:  # fmt: skip
    """Draw what a network attends to in images.

    MODEL is a directory that `attnzoo train` wrote, of a classifier or a detector, or the name of a classifier. IMAGE
    is a file, or a folder that is searched for images. For each image a PNG file and an HTML file are written. In the
    latter, a click on the picture moves the query.

    Example: attnzoo see runs/photographs/model holiday/beach.jpg --query 80,120
    """
    choose_device(device)
    files = pictures_in(paths, skipped := Skipped())
    if skipped.remarks:
        click.echo(skipped.remarks, err=True)
    check_model(model)
    if is_random(model, pretrained):
        click.echo(RANDOM, err=True)
    # no more digits than any number of layers has
    chosen = [int(layer) if re.fullmatch("-?[0-9]{1,9}", layer) else layer for layer in layers]
    try:
        written = see(model, files, output, layers=chosen, query=_place(query), pretrained=pretrained, device=device)
    except UnreadableImageError as error:
        raise click.ClickException(str(error)) from error
    for path in written:
        click.echo(f"{path} and {path.with_suffix('.html').name}")


def _place(query: str | None) -> tuple[int, int] | None:
    if query is None:
        return None
    found = re.fullmatch(r"\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*", query)
    if found is None:
        raise ValueError(f"--query must be ROW,COLUMN, such as 80,120, got {query!r}")
    return int(found[1]), int(found[2])
