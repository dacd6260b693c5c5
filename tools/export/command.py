"""`attnzoo export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..opening import is_detector, model_directory, open_model
from .detection import open_with_origin
from .graphs import AXES, ExportError
from .onnx_file import TASKS, ExportReport, export_onnx
from .programs import FORMATS, export_program


def _axes(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[str, ...]:
    """ "batch,height,width" as a tuple; "none" for nothing."""
    return () if value == "none" else tuple(axis.strip() for axis in value.split(","))


@click.command("export")
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="File to write.")
@click.option(
    "--format",
    "form",
    type=click.Choice(("onnx", *FORMATS)),
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
    help=f"What is left free: {', '.join(AXES)}, joined by commas, or none.",
)
@click.option("--opset", type=int, help="Version of ONNX's operators, 18 to 23; 20 by default.")
def export_command(
    model: str, output: Path, form: str, pretrained: bool, task: str | None, opset: int | None, **options: Any
) -> None:
    """Write MODEL as a verified ONNX file, or as one for PyTorch.

    MODEL is a name (`attnzoo list`, or any other of timm) or a directory that `attnzoo train` wrote. The file takes
    float32 `images` (batch, channels, height, width) in any number and gives `logits`; that of a detector takes
    pictures of 0 .. 1 and gives `boxes`, `scores` and `labels`. Its metadata holds labels and preprocessing. It is
    compared with the model in ONNX Runtime, and only a file that agrees is kept.

    \b
    Examples:
      attnzoo export nat_pico --output nat_pico.onnx
      attnzoo export nat_pico --format pt2 --output nat_pico.pt2
    """
    _check_format(form, output, opset)
    try:
        model = model_directory(model)
        network, origin = (
            open_with_origin(model)
            if is_detector(model)
            else open_model(model, pretrained=pretrained, image_size=options["image_size"])
        )
        options |= {"task": task, "metadata": origin}
        if form == "onnx":
            report = export_onnx(network, output, opset=20 if opset is None else opset, **options)
        else:
            report = export_program(network, output, form=form, **options)
    except (ExportError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    if origin["weights"].startswith("random"):
        click.echo("note: the weights are random; --pretrained or a trained directory brings real ones", err=True)
    click.echo(_line(report, form))


def _check_format(form: str, output: Path, opset: int | None) -> None:
    if form == "onnx" and output.suffix == ".pt2":
        raise ValueError(f"{output} would hold ONNX: name it .onnx, or choose --format {' or '.join(FORMATS)}")
    if form != "onnx" and opset is not None:
        raise ValueError(f"--opset is of ONNX files, and --format {form} writes none: leave it out")


def _line(report: ExportReport, form: str) -> str:
    kind = form if report.opset is None else f"opset {report.opset}"
    return (
        f"{report.path}: {report.file_size / 1e6:.2f} MB, {kind}, images {'x'.join(map(str, report.input_size))}, "
        f"free: {', '.join(report.dynamic) or 'nothing'}; differs from eager by at most {report.max_difference:.1e} "
        f"({len(report.checked)} shapes)"
    )
