"""`attnzoo export`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource
from torch import Tensor, nn

from attnzoo_command.devices import DeviceCommand
from attnzoo_command.steps import step

from ..models import RANDOM, model_directory, stored_task
from ..tasks import function_of
from .graphs import AXES, ExportError
from .onnx_file import ExportReport, export_onnx
from .options import FORMATS, OF_ONNX, PRECISIONS
from .precision import read_calibration
from .programs import PROGRAMS, export_program
from .tasks import TASKS


def _axes(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """Splits "batch,height,width" into a tuple; "none" gives an empty one."""
    if not value.strip():
        raise click.BadParameter(f"must be {', '.join(AXES)}, separated by commas, or none, got an empty text")
    return () if value == "none" else tuple(axis.strip() for axis in value.split(","))


@click.command("export", cls=DeviceCommand)
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    default="onnx",
    show_default=True,
    help="ONNX, a torch.export program (pt2), or an AOTInductor package compiled for the CPU of this machine (aoti).",
)
@click.option("--pretrained", is_flag=True, help="Load the published weights of a model name.")
@click.option("--task", type=click.Choice(TASKS), help="Task of the file; by default the task of the model.")
@click.option("--image-size", type=int, nargs=2, metavar="H W", help="Image size; by default the size of the model.")
@click.option(
    "--dynamic",
    default="batch",
    show_default=True,
    callback=_axes,
    help=f"Dynamic axes: {', '.join(AXES)}, separated by commas, or none.",
)
@click.option("--opset", type=int, default=20, show_default=True, help="ONNX opset version, 18 to 23.")
@click.option(
    "--precision", type=click.Choice(PRECISIONS), default="fp32", show_default=True, help="Precision of the file."
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path),
    help="Folder of images to calibrate int8 with, and to compare int8 or fp16 with fp32.",
)
@click.option(
    "--least-agreement",
    type=click.FloatRange(0, 1),
    default=0.95,
    show_default=True,
    help="Share of the calibration images whose top class must be the same in lower precision as in fp32.",
)
@click.option(
    "--preprocess", is_flag=True, help="Take uint8 images (batch, height, width, channels), normalised inside the file."
)
@click.option(
    "--device",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="auto or cpu: a file is written and checked on the CPU; what runs it chooses its device.",
)
def export_command(
    model: str, output: Path, form: str, pretrained: bool, calibration: Path | None, device: str, **options: Any
) -> None:
    """Export MODEL to a verified ONNX file, or to a PyTorch file.

    MODEL is a model name (`attnzoo list`, or any other timm model) or a directory written by `attnzoo train`. The file
    takes float32 `images` (batch, channels, height, width) of any batch size and returns `logits`. The file of a
    detector takes images in the range 0 .. 1 and returns `boxes`, `scores` and `labels`; that of a segmenter returns
    `logits` of each pixel, or its class as `mask` with --task mask. The metadata holds labels and
    preprocessing. The file is run in ONNX Runtime, and kept only if its outputs agree with the model.

    Lower precision makes the file smaller: fp16 halves it, int8 reduces it to about a quarter. Layers that lose too
    much accuracy stay in float32 and are reported. The outputs for the calibration images are compared with float32.

    \b
    Examples:
      attnzoo export nat_pico --output nat_pico.onnx
      attnzoo export nat_pico --format pt2 --output nat_pico.pt2
      attnzoo export runs/digits/model --output digits.onnx --precision int8 --calibration images
    """
    if device not in ("auto", "cpu"):
        raise ValueError(
            f"a file is written and checked on the CPU, whatever device will run it: omit --device, got {device}"
        )
    _check_format(form, output)
    model, size = model_directory(model), options["image_size"]
    step(f"opening {model}")
    try:
        network, origin = function_of(stored_task(model), "export")(model, pretrained=pretrained, image_size=size)
        if form == "onnx":
            images = None if calibration is None else _pictures(calibration, network, size)
            report = export_onnx(network, output, metadata=origin, calibration=images, **options)
        else:
            shape = {key: options[key] for key in ("task", "image_size", "dynamic")}
            report = export_program(network, output, form=form, metadata=origin, **shape)
    except (ExportError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    if origin["weights"].startswith("random"):
        click.echo(RANDOM, err=True)
    click.echo(_line(report, form))
    if report.fidelity is not None:
        click.echo(
            f"{report.precision}: {report.fidelity}; latency on this machine: {report.time_ratio:.2f} of float32; "
            f"kept in float32: {', '.join(report.kept) or 'nothing'}"
        )


def _pictures(folder: Path, network: nn.Module, image_size: tuple[int, int] | None) -> Iterator[Tensor]:
    """The calibration images, read after the other options have been checked."""
    yield from read_calibration(folder, network, image_size)


def _check_format(form: str, output: Path) -> None:
    if form == "onnx" and output.suffix == ".pt2":
        raise ValueError(
            f"{output} has the suffix of a PyTorch file: name it .onnx, or use --format {' or '.join(PROGRAMS)}"
        )
    source = click.get_current_context().get_parameter_source
    said = [name for name in OF_ONNX if source(name) is not ParameterSource.DEFAULT]
    if form != "onnx" and said:
        raise ValueError(f"--{said[0].replace('_', '-')} applies to ONNX files only: remove it for --format {form}")


def _line(report: ExportReport, form: str) -> str:
    kind = form if report.opset is None else f"{report.precision}, opset {report.opset}"
    # the file of lower precision is described in the next line
    compared = "differs" if report.precision == "fp32" else f"before the conversion to {report.precision} it differs"
    return (
        f"{report.path}: {report.file_size / 1e6:.2f} MB, {kind}, images {'x'.join(map(str, report.input_size))}, "
        f"dynamic: {', '.join(report.dynamic) or 'none'}; {compared} from eager by at most {report.max_difference:.1e} "
        f"({len(report.checked)} input shape{'s' if len(report.checked) != 1 else ''})"
    )
