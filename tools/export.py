"""Models as ONNX files that are right: traced, cleaned, run in ONNX Runtime against eager, and only then kept.

`export_onnx` does it for any module, `attnzoo export` for a name of timm or a trained directory. The file takes
`images` (B, C, H, W), preprocessed, float32, B free, and gives `logits` (B, classes); it is made of standard
operators, and its metadata says what a program needs that only has the file: labels, mean, deviation, sizes, origin.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import timm
import timm.data
import torch
from torch import Tensor, nn

import attnzoo

from .files import replacing
from .onnx_graph import ExportError, open_session, relative_difference, require_packages, to_onnx
from .opening import check_size, open_model

OPSETS = (18, 19, 20)
# The trace sees two images: one alone, and an odd number, show whether it took the two for granted.
_CHECKED_BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportReport:
    """A file that passed its check.

    Attributes:
        path: the file.
        file_size: in bytes.
        opset: version of the operators.
        input_size: channels, height and width of an image.
        max_difference: largest difference to eager float32 over all batches, as a share of the largest |logit|.
        batches: the batch sizes that were compared.
        metadata: what the file says of itself.
    """

    path: Path
    file_size: int
    opset: int
    input_size: tuple[int, int, int]
    max_difference: float
    batches: tuple[int, ...]
    metadata: Mapping[str, str]


def export_onnx(
    model: nn.Module,
    output: Path,
    *,
    image_size: tuple[int, int] | None = None,
    opset: int = 20,
    metadata: Mapping[str, str] | None = None,
    tolerance: float = 1e-4,
) -> ExportReport:
    """Writes a classifier as an ONNX file, in float32 and evaluation mode; `model` itself stays as it is.

    The file is compared with eager before it gets its name: what is at `output` is right, or is what was there.

    Args:
        model: maps (B, C, H, W) to (B, classes); a model of timm brings its sizes and preprocessing along.
        output: the file to write; its folder is made.
        image_size: height and width; by default what a model of timm names.
        opset: version of ONNX's operators, 18 .. 20.
        metadata: entries to add to the file's own, or to replace there.
        tolerance: largest difference allowed, as a share of the largest |logit|.

    Returns:
        What was written and how far it is from eager.

    Raises:
        ValueError: an opset out of range, an unknown or impossible image size, an output that is a folder.
        ExportError: the model has no standard ONNX form, or the file gives other logits than eager.
        ImportError: the packages of `attnzoo[export]` are missing.
    """
    require_packages()
    if opset not in OPSETS:
        raise ValueError(
            f"opset must be 18, 19 or 20, got {opset}: torch exports from 18 on, "
            "and from 23 on it writes Attention nodes, on which the devices of ONNX Runtime disagree"
        )
    if output.is_dir():
        raise ValueError(f"output must be a file, but {output} is a folder: name the file in it, like model.onnx")
    model = copy.deepcopy(model).cpu().float().eval()
    input_size = _input_size(model, image_size)
    images = _images(input_size, 2)
    classes = _logits(model, images).shape[1]
    notes = {**describe(model, input_size, classes), **(metadata or {})}

    difference = 0.0
    noisy = _without_zeros(model)
    if noisy is not None:
        _logits(noisy, images)
        difference = _check(to_onnx(noisy, images, opset, {}), noisy, input_size, tolerance)

    content = to_onnx(model, images, opset, notes)
    with replacing(output) as fresh:
        fresh.write_bytes(content)
        difference = max(difference, _check(fresh, model, input_size, tolerance))
    return ExportReport(output, len(content), opset, input_size, difference, _CHECKED_BATCHES, notes)


def describe(model: nn.Module, input_size: tuple[int, int, int], classes: int) -> dict[str, str]:
    """What a file says of itself: text by key, lists as JSON; a key is missing where nothing is known.

    Args:
        model: a model of timm, or any other.
        input_size: channels, height and width of an image.
        classes: width of the logits.
    """
    notes = {"input_size": json.dumps(input_size), "attnzoo_version": attnzoo.__version__}
    config = getattr(model, "pretrained_cfg", None)
    if not config:
        return notes
    data = timm.data.resolve_model_data_config(model)
    notes |= {
        "model": str(config.get("architecture", type(model).__name__)),
        "mean": json.dumps(data["mean"]),
        "std": json.dumps(data["std"]),
        "interpolation": data["interpolation"],
        "crop_pct": json.dumps(data["crop_pct"]),
        "crop_mode": data["crop_mode"],
    }
    labels = config.get("label_names")
    if isinstance(labels, Mapping):
        labels = [labels.get(i, labels.get(str(i), "")) for i in range(classes)]
    # a head that was replaced leaves the old names behind
    if labels and len(labels) == classes:
        notes["labels"] = json.dumps(list(labels))
    return notes


def _input_size(model: nn.Module, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    config = getattr(model, "pretrained_cfg", None)
    if image_size is None and not config:
        raise ValueError(f"image_size is needed: {type(model).__name__} is not a model of timm and names none itself")
    named = timm.data.resolve_model_data_config(model)["input_size"] if config else (3, 0, 0)
    height, width = image_size or named[1:]
    check_size(image_size)
    return named[0], height, width


def _images(input_size: tuple[int, int, int], batch: int) -> Tensor:
    return torch.randn(batch, *input_size, generator=torch.Generator().manual_seed(batch))


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor) -> Tensor:
    try:
        logits = model(images)
    except Exception as error:
        size = "x".join(map(str, images.shape[1:]))
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the model does not take images of {size}, choose another image size: {reason}") from error
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != len(images):
        given = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must give logits (B, classes), it gave {given}: is its pooling or head removed?")
    return logits


def _without_zeros(model: nn.Module) -> nn.Module | None:
    """A copy that holds noise in the tensors that are zero, or close to it; None where there is none.

    A layer that starts as zero (LayerScale, the last normalization of a branch, a bias table) hides what is behind
    it, and any file would pass the check. On such a copy the check can fail.
    """
    filled = copy.deepcopy(model)
    generator, found = torch.Generator().manual_seed(0), False
    for tensor in filled.state_dict().values():
        if tensor.is_floating_point() and tensor.numel() and tensor.abs().max() < 1e-3:
            tensor.copy_(torch.randn(tensor.shape, generator=generator).mul_(0.1))
            found = True
    return filled if found else None


def _check(file: bytes | Path, model: nn.Module, input_size: tuple[int, int, int], tolerance: float) -> float:
    """Runs a file in ONNX Runtime beside the model: the largest difference, as a share of the largest |logit|."""
    session, worst = open_session(file), 0.0
    for batch in _CHECKED_BATCHES:
        images = _images(input_size, batch)
        expected = _logits(model, images)
        try:
            given = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
        except Exception as error:
            raise ExportError(f"ONNX Runtime cannot run the file at batch {batch}: {error}") from error
        if given.shape != expected.shape:
            raise ExportError(f"the file gives {tuple(given.shape)} at batch {batch}, eager {tuple(expected.shape)}")
        worst = max(worst, relative_difference(given, expected))
    if not worst <= tolerance:
        raise ExportError(
            f"the file is wrong and was not kept: its logits differ from eager by {worst:.1e} of the largest, "
            f"and {tolerance:.0e} is allowed"
        )
    return worst


@click.command("export")
@click.argument("model")
@click.option("--output", type=click.Path(path_type=Path), required=True, help="ONNX file to write.")
@click.option("--pretrained", is_flag=True, help="Load the published weights of a name.")
@click.option("--image-size", type=int, nargs=2, metavar="H W", help="Size of the images; the model's own by default.")
@click.option("--opset", type=int, default=20, show_default=True, help="Version of ONNX's operators, 18 to 20.")
def export_command(model: str, output: Path, pretrained: bool, image_size: tuple[int, int] | None, opset: int) -> None:
    """Write MODEL as a verified ONNX file.

    MODEL is a name (`attnzoo list`, or any other of timm) or a directory that `attnzoo train` wrote. The file takes
    float32 `images` (batch, channels, height, width) in any number and gives `logits`; its metadata holds labels and
    preprocessing. It is compared with the model in ONNX Runtime, and only a file that agrees is kept.

    Example: attnzoo export nat_pico --output nat_pico.onnx
    """
    try:
        network, origin = open_model(model, pretrained=pretrained, image_size=image_size)
        report = export_onnx(network, output, image_size=image_size, opset=opset, metadata=origin)
    except (ExportError, ImportError) as error:
        raise click.ClickException(str(error)) from error
    if origin["weights"].startswith("random"):
        click.echo("note: the weights are random; --pretrained or a trained directory brings real ones", err=True)
    click.echo(
        f"{report.path}: {report.file_size / 1e6:.2f} MB, opset {report.opset}, images "
        f"{'x'.join(map(str, report.input_size))}, differs from eager by at most {report.max_difference:.1e} "
        f"of the largest logit (batches {', '.join(map(str, report.batches))})"
    )


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["export", *sys.argv[1:]])
