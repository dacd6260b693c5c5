"""`attnzoo export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..opening import open_model
from .graphs import AXES, ExportError
from .onnx_file import TASKS, export_onnx
from .precision import PRECISIONS, check_precision, read_calibration


def _axes(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """ "batch,height,width" as a tuple; "none" for nothing."""
    return () if value == "none" else tuple(axis.strip() for axis in value.split(","))


@click.command("export")
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option("--pretrained", is_flag=True, help="Load the published weights of a name.")
@click.option("--task", type=click.Choice(TASKS), help="What the file gives; what the model was made for by default.")
@click.option("--image-size", type=int, nargs=2, metavar="H W", help="Size of the images; the model's own by default.")
@click.option(
    "--dynamic",
    default="batch",
    show_default=True,
    callback=_axes,
    help=f"What is left free: {', '.join(AXES)}, joined by commas, or none.",
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
    model: str, output: Path, pretrained: bool, task: str | None, calibration: Path | None, **options: Any
) -> None:
    """Write MODEL as a verified ONNX file.

    MODEL is a name (`attnzoo list`, or any other of timm) or a directory that `attnzoo train` wrote. The file takes
    float32 `images` (batch, channels, height, width) in any number and gives `logits`; its metadata holds labels and
    preprocessing. It is compared with the model in ONNX Runtime, and only a file that agrees is kept.

    Lower precision makes the file smaller: fp16 by half, int8 to about a quarter. Layers that suffer stay in float32,
    are named, and the answers to the calibration pictures are compared with those in float32.

    \b
    Examples:
      attnzoo export nat_pico --output nat_pico.onnx
      attnzoo export runs/digits/model --output digits.onnx --precision int8 --calibration pictures
    """
    try:
        check_precision(options["precision"], task or "classify", calibration is not None)
        network, origin = open_model(model, pretrained=pretrained, image_size=options["image_size"])
        images = read_calibration(calibration, network, options["image_size"]) if calibration is not None else None
        report = export_onnx(
            network, output, task=task or "classify", metadata=origin, calibration=images, **options
        )  # fmt: skip
    except (ExportError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    if origin["weights"].startswith("random"):
        click.echo("note: the weights are random; --pretrained or a trained directory brings real ones", err=True)
    click.echo(
        f"{report.path}: {report.file_size / 1e6:.2f} MB, opset {report.opset}, images "
        f"{'x'.join(map(str, report.input_size))}, free: {', '.join(report.dynamic) or 'nothing'}; differs from eager "
        f"by at most {report.max_difference:.1e} ({len(report.checked)} shapes)"
    )
    if report.fidelity is not None:
        click.echo(
            f"{report.precision}: {report.fidelity}; takes {report.time_ratio:.2f} of its time here; "
            f"kept in float32: {', '.join(report.kept) or 'nothing'}"
        )
