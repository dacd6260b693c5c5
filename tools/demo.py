"""`attnzoo demo`: train on handwritten digits, export to ONNX and verify the file, in two minutes."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import timm
import timm.data
import torch
from torch import Tensor, nn

from attnzoo_command.devices import DeviceCommand, device_option

CONFIG = "classification/digits"


class DemoError(RuntimeError):
    """The demo ran, but its accuracy is too low or the exported file is wrong."""


@dataclass(frozen=True)
class DemoReport:
    """The measurements of the demo.

    Attributes:
        accuracy_eager, accuracy_onnx: accuracy on the held-out digits, 0 .. 1.
        max_difference: largest logit difference between ONNX Runtime and eager, relative to the largest |logit|.
        latency_ratio: latency of ONNX Runtime over eager, batch size 1, one thread, medians.
        weights_size, onnx_size: file sizes in bytes.
        training_seconds, seconds: duration of the training, and of the whole demo.
        model, onnx, picture: paths of the model directory, the ONNX file and the figure.
    """

    accuracy_eager: float
    accuracy_onnx: float
    max_difference: float
    latency_ratio: float
    weights_size: int
    onnx_size: int
    training_seconds: float
    seconds: float
    model: Path
    onnx: Path
    picture: Path


def demo(work_dir: Path, *, required_accuracy: float = 0.99, overrides: Sequence[str] = ()) -> DemoReport:
    """Trains nat_pico on scikit-learn's digits, exports it, and runs the file on the held-out fifth.

    Args:
        work_dir: receives `digits.onnx`, `digits.png` and `digits-training/`. Results of an earlier demo under these
            names are deleted first, except for a training that was interrupted, which continues.
        required_accuracy: minimum accuracy on the held-out digits, 0 .. 1.
        overrides: changes to the config, "key=value".

    Returns:
        The measurements.

    Raises:
        DemoError: the accuracy is lower than required, or differs between the file and eager.
        ExportError: the file's logits differ from eager by more than 1e-4 of the largest |logit|.
    """
    from .data import ClassifiedImages, Draw, digits, val_transform
    from .export import ExportError, export_onnx, open_session, relative_difference
    from .figure import draw_digits
    from .models import open_model
    from .train import train
    from .training.config import load_config
    from .training.storage import LAST

    started = time.perf_counter()
    training, onnx, picture = (work_dir / name for name in ("digits-training", "digits.onnx", "digits.png"))
    # the picture is the last that a demo writes
    if training.exists() and (picture.exists() or not (training / LAST).exists()):
        shutil.rmtree(training)
    for file in (onnx, picture):
        file.unlink(missing_ok=True)

    folder = train(load_config(CONFIG, overrides), training, resume=True)
    trained = time.perf_counter()

    model, origin = open_model(str(folder))
    model.eval()
    transform = val_transform(timm.data.resolve_model_data_config(model))
    held_out = ClassifiedImages(digits("val"), transform, channels=1)
    batch = held_out.collate([held_out[Draw(i)] for i in range(len(held_out))])
    images, labels = batch["images"], batch["labels"]

    exported = export_onnx(model, onnx, metadata=origin)
    session = open_session(onnx, threads=1)
    with torch.no_grad():
        eager = model(images)
    given = torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])
    difference = relative_difference(given, eager)
    accuracy, accuracy_onnx = (_accuracy(logits, labels) for logits in (eager, given))
    if not difference <= 1e-4:
        raise ExportError(
            f"{onnx} is wrong: on the held-out digits its logits differ from eager by {difference:.1e} of the largest"
        )
    if accuracy != accuracy_onnx:
        raise DemoError(f"{onnx} has an accuracy of {accuracy_onnx:.2%} on the held-out digits, eager {accuracy:.2%}")

    draw_digits(picture, model, images, labels, eager, held_out.classes)
    report = DemoReport(
        accuracy_eager=accuracy,
        accuracy_onnx=accuracy_onnx,
        max_difference=difference,
        latency_ratio=_latency_ratio(session, model, images[:1]),
        weights_size=(folder / "model.safetensors").stat().st_size,
        onnx_size=exported.file_size,
        training_seconds=trained - started,
        seconds=time.perf_counter() - started,
        model=folder,
        onnx=onnx,
        picture=picture,
    )
    _print(report)
    if accuracy < required_accuracy:
        raise DemoError(
            f"the accuracy on the held-out digits must be at least {required_accuracy:.0%}, got {accuracy:.2%}"
        )
    return report


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return int((logits.argmax(1) == labels).sum()) / len(labels)


def _latency_ratio(session: Any, model: nn.Module, images: Tensor, repeats: int = 40) -> float:
    """Returns the latency of ONNX Runtime over eager: medians of interleaved calls on one thread."""
    inputs, threads = {"images": images.numpy()}, torch.get_num_threads()
    calls: tuple[Callable[[], Any], ...] = (lambda: session.run(["logits"], inputs), lambda: model(images))
    seconds: tuple[list[float], ...] = ([], [])
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for _ in range(repeats):
                for call, times in zip(calls, seconds, strict=True):
                    begin = time.perf_counter()
                    call()
                    times.append(time.perf_counter() - begin)
    finally:
        torch.set_num_threads(threads)
    return statistics.median(seconds[0]) / statistics.median(seconds[1])


def _print(report: DemoReport) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="nat_pico on handwritten digits", title_justify="left")
    table.add_column("")
    table.add_column("eager", justify="right")
    table.add_column("ONNX Runtime", justify="right")
    table.add_row("accuracy on held-out digits", f"{report.accuracy_eager:.2%}", f"{report.accuracy_onnx:.2%}")
    table.add_row("file size", f"{report.weights_size / 1e6:.2f} MB", f"{report.onnx_size / 1e6:.2f} MB")
    table.add_row("relative latency, batch size 1, one thread", "1", f"{report.latency_ratio:.2f}")
    table.add_row("largest logit difference, relative to the maximum", "", f"{report.max_difference:.1e}")
    console = Console(highlight=False)
    console.print(table)
    console.print(f"total time: {report.seconds:.0f} s, of which training: {report.training_seconds:.0f} s")
    for name, path in (("model", report.model), ("ONNX file", report.onnx), ("figure", report.picture)):
        console.print(f"{name}: {os.path.relpath(path)}", soft_wrap=True)


@click.command("demo", cls=DeviceCommand, context_settings={"show_default": True})
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("runs/demo"),
    help="Directory for the results.",
)
@device_option
def demo_command(work_dir: Path, device: str) -> None:
    """Train, export and check a model on handwritten digits.

    Trains nat_pico on scikit-learn's digits, exports it to digits.onnx, runs that file on the held-out fifth with
    ONNX Runtime, and draws digits.png with the predictions, the confusion matrix, and the attention of one pixel. Fails
    if the file differs from the model, or if the accuracy is below 99 %. The device is that of the training. After
    Ctrl-C, the same command continues the training; a finished demo starts over.

    Example: attnzoo demo --work-dir runs/demo
    """
    from .export import ExportError
    from .training.loop import InterruptedTraining

    try:
        demo(work_dir, overrides=(f"device={device}",))
    except InterruptedTraining as stopped:
        click.echo(f"{stopped}; the same command continues it", err=True)
        raise SystemExit(128 + stopped.signal) from stopped
    except (DemoError, ExportError) as error:
        raise click.ClickException(str(error)) from error
