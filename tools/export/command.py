"""`attnzoo export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from torch import Tensor, nn

from ..models import is_detector, model_directory, open_model
from .graphs import AXES, ExportError
from .onnx_file import ExportReport, export_onnx
from .options import FORMATS, PRECISIONS
from .precision import read_calibration
from .programs import PROGRAMS, export_program
from .tasks import TASKS

# what only ONNX files have
_OF_ONNX = ("opset", "precision", "calibration", "least_agreement", "preprocess")


def _axes(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """ "batch,height,width" as a tuple; "none" for nothing."""
    return () if value == "none" else tuple(axis.strip() for axis in value.split(","))


@click.command("export")
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="onnx",
    show_default=True,
    help="An ONNX file; for PyTorch a program of torch.export (pt2), or one compiled for this machine's CPU (aoti).",
)
@click.option("--pretrained", is_flag=True, help="Load the published weights of a name.")
@click.option("--task", type=click.Choice(TASKS), help="What the file gives; what the model was made for by default.")
@click.option("--image-size", type=int, nargs=2, metavar="H W", help="Size of the images; the model's own by default.")
@click.option(
    "--dynamic",
    default="batch",
    show_default=True,
    callback=_axes,
    help=f"The dynamic axes: {', '.join(AXES)}, joined by commas, or none.",
)
@click.option("--opset", type=int, default=20, show_default=True, help="Version of ONNX's operators, 18 to 23.")
@click.option("--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="Of the numbers.")
@click.option("--calibration", type=click.Path(path_type=Path), help="Folder of pictures that int8 is fitted to.")
@click.option(
    "--least-agreement",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Share of the calibration pictures that lower precision must give the class of fp32.",
)
@click.option(
    "--preprocess", is_flag=True, help="Take uint8 pictures (batch, height, width, channels) and normalise them."
)
def export_command(
    model: str, output: Path, form: str, pretrained: bool, calibration: Path | None, **options: Any
) -> None:
    """Write MODEL as a verified ONNX file, or as one for PyTorch.

    MODEL is a name (`attnzoo list`, or any other of timm) or a directory that `attnzoo train` wrote. The file takes
    float32 `images` (batch, channels, height, width) in any number and gives `logits`; that of a detector takes
    pictures of 0 .. 1 and gives `boxes`, `scores` and `labels`. Its metadata holds labels and preprocessing. It is
    compared with the model in ONNX Runtime, and only a file that agrees is kept.

    Lower precision makes the file smaller: fp16 by half, int8 to about a quarter. Layers that suffer stay in float32,
    are named, and the answers to the calibration pictures are compared with those in float32.

    \b
    Examples:
      attnzoo export nat_pico --output nat_pico.onnx
      attnzoo export nat_pico --format pt2 --output nat_pico.pt2
      attnzoo export runs/digits/model --output digits.onnx --precision int8 --calibration pictures
    """
    _check_format(form, output)
    model, size = model_directory(model), options["image_size"]
    try:
        network, origin = _open(model, pretrained, size)
        if form == "onnx":
            images = None if calibration is None else _pictures(calibration, network, size)
            report = export_onnx(network, output, metadata=origin, calibration=images, **options)
        else:
            shape = {key: options[key] for key in ("task", "image_size", "dynamic")}
            report = export_program(network, output, form=form, metadata=origin, **shape)
    except (ExportError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    if origin["weights"].startswith("random"):
        click.echo("note: the weights are random; --pretrained or a trained directory brings real ones", err=True)
    click.echo(_line(report, form))
    if report.fidelity is not None:
        click.echo(
            f"{report.precision}: {report.fidelity}; takes {report.time_ratio:.2f} of its time here; "
            f"kept in float32: {', '.join(report.kept) or 'nothing'}"
        )


def _pictures(folder: Path, network: nn.Module, image_size: tuple[int, int] | None) -> Iterator[Tensor]:
    """The calibration pictures, read after the other choices have been checked."""
    yield from read_calibration(folder, network, image_size)


def _check_format(form: str, output: Path) -> None:
    if form == "onnx" and output.suffix == ".pt2":
        raise ValueError(f"{output} would hold ONNX: name it .onnx, or choose --format {' or '.join(PROGRAMS)}")
    source = click.get_current_context().get_parameter_source
    said = [name for name in _OF_ONNX if source(name) is not ParameterSource.DEFAULT]
    if form != "onnx" and said:
        raise ValueError(
            f"--{said[0].replace('_', '-')} is of ONNX files, and --format {form} writes none: leave it out"
        )


def _open(model: str, pretrained: bool, image_size: tuple[int, int] | None) -> tuple[nn.Module, dict[str, str]]:
    """The model, and the metadata entries that tell its origin."""
    if is_detector(model):
        from .detection import open_with_origin

        return open_with_origin(model)
    return open_model(model, pretrained=pretrained, image_size=image_size)


def _line(report: ExportReport, form: str) -> str:
    kind = form if report.opset is None else f"opset {report.opset}"
    return (
        f"{report.path}: {report.file_size / 1e6:.2f} MB, {kind}, images {'x'.join(map(str, report.input_size))}, "
        f"dynamic: {', '.join(report.dynamic) or 'nothing'}; differs from eager by at most {report.max_difference:.1e} "
        f"({len(report.checked)} shapes)"
    )
