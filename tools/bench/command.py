"""`attnzoo bench MODEL...` and `attnzoo bench kernels`; their dependencies are imported when they run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from attnzoo_command.devices import DeviceCommand, device_option

from ..devices import choose_device

Function = TypeVar("Function", bound=Callable[..., Any])

RUNTIMES = ("eager", "fused", "compiled", "onnxruntime", "openvino")


def out_option(default: Path) -> Callable[[Function], Function]:
    """Returns the option `--out`, a folder of results; before any time is spent, it is checked to be writable."""
    return click.option(
        "--out", type=click.Path(path_type=Path, file_okay=False), default=default, show_default=True,
        callback=_writable, help="Folder of the results.",
    )  # fmt: skip


def _writable(ctx: click.Context, parameter: click.Parameter, folder: Path) -> Path:
    from ..files import check_writable

    if not ctx.resilient_parsing:
        # it is created with the first result
        existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        check_writable(existing, "choose another --out")
    return folder


_out = out_option(Path("runs/bench"))


class ModelsByDefault(click.Group):
    """A group that runs the command `models` if the first argument is not a command."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Inserts the command `models` before a model name or one of its options."""
        if args and args[0] not in (*self.commands, *ctx.help_option_names):
            args = ["models", *args]
        return super().parse_args(ctx, args)


@click.group("bench", cls=ModelsByDefault, subcommand_metavar="MODEL... | kernels [OPTIONS]")
def bench_command() -> None:
    """Measure models or kernels on this machine.

    `attnzoo bench MODEL...` is short for `attnzoo bench models MODEL...`. The project's own comparisons with other
    implementations are in the folder benchmarks/ of the repository.

    \b
    Examples:
      attnzoo bench nat_tiny
      attnzoo bench kernels --device cuda
    """


@bench_command.command("models", cls=DeviceCommand)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@device_option
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    default=(1, 8),
    show_default=True,
    help="Batch size; may be repeated.",
)
@click.option(
    "--image-size",
    "sizes",
    type=click.IntRange(1),
    multiple=True,
    help="Side of square images; may be repeated.  [default: the size of the model]",
)
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(RUNTIMES),
    multiple=True,
    help="Runtime to measure in addition to eager; may be repeated.  [default: all installed]",
)
@click.option("--training", is_flag=True, help="Measure training steps too, eager and compiled.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="CPU threads.")
@click.option("--seconds", type=click.FloatRange(0), default=10, show_default=True, help="Time limit per row.")
@_out
def models_command(
    models: tuple[str, ...], device: str, batches: tuple[int, ...], sizes: tuple[int, ...],
    runtimes: tuple[str, ...], training: bool, threads: int, seconds: float, out: Path,
) -> None:  # fmt: skip
    """Measure latency, throughput and peak memory of models.

    MODEL is a timm model name; the weights are random. The runtimes are eager, eager after `fuse()`, torch.compile, and
    an ONNX file in ONNX Runtime and OpenVINO (on a CPU). The logits of each runtime must agree with eager before it is
    timed. Prints a table, and writes `models-<device>-<date>.json` and a plot of latency over batch size.

    \b
    Examples:
      attnzoo bench nat_tiny zoo_swin_tiny_patch4_window7_224
      attnzoo bench nat_tiny --batch 1 --batch 32 --image-size 224 --image-size 384 --runtime onnxruntime
      attnzoo bench nat_tiny --device cuda --batch 128 --training
    """
    place = choose_device(device)
    from .models import Settings, run_models

    chosen = tuple(name for name in RUNTIMES if name == "eager" or not runtimes or name in runtimes)
    wrong = run_models(Settings(models, place, batches, sizes, chosen, training, threads, seconds, out), click.echo)
    if wrong:
        raise click.ClickException(f"{len(wrong)} results are wrong, the first: {wrong[0]}")


@bench_command.command("kernels", cls=DeviceCommand)
@device_option
@click.option("--only", default="", metavar="TEXT", help="Only rows whose name contains TEXT, such as 56x56.")
@click.option("--batch", type=click.IntRange(1), help="Batch size.  [default: 32 on a GPU, 1 on a CPU]")
@click.option("--seconds", type=click.FloatRange(0), default=120, show_default=True, help="Time limit for all rows.")
@_out
def kernels_command(device: str, only: str, batch: int | None, seconds: float, out: Path) -> None:
    """Measure the operators of attnzoo.kernels at the stages of their networks.

    Each operator is first checked against the reference execution, and not timed if its result is wrong. Then the
    forward and backward pass are timed, in eager and in the execution that is chosen on the device. Prints a table, and
    writes `kernels-<device>-<date>.json`.

    \b
    Examples:
      attnzoo bench kernels --device cuda
      attnzoo bench kernels --only window
    """
    place = choose_device(device)
    from .kernels import run_kernels

    wrong = run_kernels(place, only, batch or (1 if place.type == "cpu" else 32), seconds, out, click.echo)
    if wrong:
        raise click.ClickException(f"{len(wrong)} results are wrong, the first: {wrong[0]}")
