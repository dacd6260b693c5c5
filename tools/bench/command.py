"""`attnzoo bench`: the group of commands; what they need is imported when they run, for torch takes seconds."""

from __future__ import annotations

from pathlib import Path

import click

RESULTS = Path("benchmarks") / "results"
MODELS = ("nat_tiny", "swin_tiny_patch4_window7_224")
TRAINED = ("nat_pico", "zoo_shvit_s1")
RUNTIMES = ("fused", "compile", "aoti", "onnxruntime", "openvino", "gather")
PEERS = ("official", "timm")
ARCHITECTURES = ("sm80", "sm90", "sm100", "gfx942")

_device = click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where.")
_out = click.option(
    "--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True, help="Folder of the results."
)


@click.group("bench")
def bench_command() -> None:
    """Measure the operators and the models."""


@bench_command.command("kernels")
@_device
@click.option("--only", default="", metavar="TEXT", help="Rows whose name contains this, such as 56x56 or window.")
@click.option("--quick", is_flag=True, help="A few random shapes, and a few rounds or rows.")
@click.option("--seconds", type=click.FloatRange(min=0), default=420, show_default=True, help="Time for all rows.")
@click.option("--static", is_flag=True, help="Compile for machines that are not here, and read what the compiler says.")
@click.option(
    "--architecture",
    "architectures",
    type=click.Choice(ARCHITECTURES),
    multiple=True,
    help="With --static: only this one; may be repeated.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="With --static: processes; by default as many as cores.")
@_out
def kernels_command(
    device: str,
    only: str,
    quick: bool,
    seconds: float,
    static: bool,
    architectures: tuple[str, ...],
    jobs: int | None,
    out: Path,
) -> None:
    """Measure the operators against their peers.

    Correctness comes first, on random shapes and on every row: what is wrong is not timed, and the command fails.

    On a CPU the peers take turns on one thread, and a file is written for each operator. On CUDA the stages of NAT,
    Swin and BiFormer are measured, the important ones first, beside the floor that the card's bandwidth and matrix
    rate allow, into one file and a picture. With --static nothing runs: every kernel is compiled for the
    architectures, and registers, spills and shared memory are listed.

    \b
    Examples:
      attnzoo bench kernels --only 7x7 --quick
      attnzoo bench kernels --device cuda
      attnzoo bench kernels --static --architecture sm90
    """
    if static:
        from .static import run_static

        run_static(architectures or ARCHITECTURES, jobs, only, out, click.echo)
        return
    _require(device)
    from .kernels import Settings, on_cpu, on_cuda

    wrong = (on_cuda if device == "cuda" else on_cpu)(Settings(out, only, quick, seconds, click.echo))
    if wrong:
        raise click.ClickException(f"{len(wrong)} results are wrong, the first: {wrong[0]}")


@bench_command.command("models")
@click.argument("models", nargs=-1)
@_device
@click.option("--batch", type=click.IntRange(min=1), help="Images of a batch; 128 on CUDA and 2 on a CPU by default.")
@click.option("--image-size", type=click.IntRange(min=1), default=224, show_default=True, help="Side of the images.")
@click.option("--quick", is_flag=True, help="A short time for each row, and nothing compiled.")
@click.option("--against", type=click.Choice(PEERS), help="Compare with a peer, on one thread of the CPU.")
@_out
def models_command(
    models: tuple[str, ...],
    device: str,
    batch: int | None,
    image_size: int,
    quick: bool,
    against: str | None,
    out: Path,
) -> None:
    """Measure MODELS in images per second.

    Each runs inference and training steps: plain, channels-last, and compiled.

    MODELS are names that timm knows; nat_tiny and swin_tiny_patch4_window7_224 by default. Inference and training run
    under bfloat16 autocast on CUDA and in float32 on one thread of a CPU.

    With --against, models that have a peer (all of them by default) run beside it, in turns, on images of the published
    size, in batches of 1 and 8: printed is our time over its time. The peer is the formulation of the authors' code
    (official), or timm's network of the same name (timm).

    \b
    Examples:
      attnzoo bench models --device cuda nat_tiny swin_tiny_patch4_window7_224
      attnzoo bench models --against official biformer_tiny
      attnzoo bench models --against timm zoo_swin_tiny_patch4_window7_224
    """
    if against:
        from .against import BATCHES, run_against

        run_against(against, models, (batch,) if batch else BATCHES, quick, 10, out, click.echo)
        return
    _require(device)
    from .models import run_models

    batch = batch or (128 if device == "cuda" else 2)
    run_models(models or MODELS, device, batch, image_size, quick, out, click.echo)


@bench_command.command("export")
@click.argument("models", nargs=-1)
@click.option("--batch", type=click.IntRange(min=1), help="Images of a batch; 1 and then 8 by default.")
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the images; the model's own by default.")
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(RUNTIMES),
    multiple=True,
    help="Only this one beside eager; may be repeated.",
)
@click.option("--quick", is_flag=True, help="Two rounds for each row, and nothing compiled unless --runtime names it.")
@click.option("--seconds", type=click.FloatRange(min=0), default=20, show_default=True, help="Time for a row.")
@_out
def export_command(
    models: tuple[str, ...],
    batch: int | None,
    image_size: int | None,
    runtimes: tuple[str, ...],
    quick: bool,
    seconds: float,
    out: Path,
) -> None:
    """Measure MODELS where they are deployed: eager beside what they can be exported to, on one thread of the CPU.

    MODELS are names that timm knows; by default those of attnzoo with published accuracy and up to 35 M parameters.
    What they answer is compared with eager first: what is wrong is not timed, and the command fails. A runtime that is
    not installed, or cannot run the model, gets a reason instead of a time. Written are a table and, where accuracy is
    published, a picture of it over latency.

    \b
    Examples:
      attnzoo bench export
      attnzoo bench export nat_mini --runtime onnxruntime --runtime gather
    """
    from .export import BATCHES, run_export

    wrong = run_export(models, (batch,) if batch else BATCHES, image_size, runtimes, quick, seconds, out, click.echo)
    if wrong:
        raise click.ClickException(f"{len(wrong)} answers are wrong, the first: {wrong[0]}")


@bench_command.command("training")
@click.argument("models", nargs=-1)
@click.option("--quick", is_flag=True, help="Two turns of two steps, and few pictures.")
@_out
def training_command(models: tuple[str, ...], quick: bool, out: Path) -> None:
    """Measure what the training loop costs beside bare steps of MODELS, and how fast pictures are read.

    MODELS are names that timm knows; nat_pico and zoo_shvit_s1 by default. They train on the CPU at 224 pixels, on JPEG
    files that are made for it from scikit-image's photographs. Steps of the loop and bare steps take turns.

    \b
    Examples:
      attnzoo bench training
      attnzoo bench training nat_mini
    """
    from .training import run_training

    run_training(models or TRAINED, quick, out, click.echo)


@bench_command.command("scaling")
@click.option(
    "--image-size",
    "images",
    type=click.IntRange(min=28),
    multiple=True,
    help="Side of the image, a multiple of 28; may be repeated.  [default: 224, 448, 896]",
)
@click.option("--quick", is_flag=True, help="A short time for each row.")
@_out
def scaling_command(images: tuple[int, ...], quick: bool, out: Path) -> None:
    """Measure time and memory of the operators over resolution, beside their formula, on one thread of the CPU."""
    from .scaling import IMAGES, run_scaling

    run_scaling(images or IMAGES, quick, out, click.echo)


def _require(device: str) -> None:
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda needs a CUDA or ROCm device that torch can see: use --device cpu, or --static")
