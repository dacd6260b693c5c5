"""`python -m benchmarks`: the measurements behind the numbers in the documentation, written to benchmarks/results."""

from __future__ import annotations

from pathlib import Path

import click

from attnzoo.tools.bench.command import out_option
from attnzoo.tools.cli import Mistake, MistakesGroup
from attnzoo.tools.devices import choose_device
from attnzoo.tools.files import read_json

RESULTS = Path(__file__).parent / "results"
TRAINED = ("nat_pico", "zoo_shvit_s1")
RUNTIMES = ("fused", "compile", "aoti", "onnxruntime", "openvino", "gather")
PEERS = ("official", "timm")
ARCHITECTURES = ("sm80", "sm90", "sm100", "gfx942")

_device = click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Device.")
_out = out_option(RESULTS)


@click.group("benchmarks", cls=MistakesGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Compare the operators and the models of attnzoo with other implementations."""


@main.command("kernels")
@_device
@click.option("--only", default="", metavar="TEXT", help="Only rows whose name contains this, such as 56x56 or window.")
@click.option("--quick", is_flag=True, help="Fewer random shapes, rounds and rows.")
@click.option("--seconds", type=click.FloatRange(min=0), default=420, show_default=True, help="Time for all rows.")
@_out
def kernels_command(device: str, only: str, quick: bool, seconds: float, out: Path) -> None:
    """Measure the operators against their peers.

    Every operator is checked first, on random shapes and on every row. A row with a wrong result is not timed, and the
    command fails.

    On a CPU the calls of ours and of the peers are interleaved on one thread, and one file is written per operator. On
    CUDA the stages of NAT, Swin, BiFormer and HaloNet are measured, the most important ones first, and compared with
    the lower bound given by the card's bandwidth and matrix rate. One file and one figure are written.

    \b
    Examples:
      python -m benchmarks kernels --only 7x7 --quick
      python -m benchmarks kernels --device cuda
    """
    choose_device(device)
    from .kernels import Settings, on_cpu, on_cuda

    wrong = (on_cuda if device == "cuda" else on_cpu)(Settings(out, only, quick, seconds, click.echo))
    if wrong:
        raise click.ClickException(f"{len(wrong)} results are wrong, the first: {wrong[0]}")


@main.command("natten")
@click.option("--only", default="", metavar="TEXT", help="Only rows whose name contains this, such as 56x56 or L8192.")
@click.option("--quick", is_flag=True, help="Fewer random shapes and rounds.")
@click.option("--seconds", type=click.FloatRange(min=0), default=240, show_default=True, help="Time for all rows.")
@_out
def natten_command(only: str, quick: bool, seconds: float, out: Path) -> None:
    """Measure NATTEN's unfused pair and attention along sequences, on one thread of the CPU.

    The pair is compared with gathered keys, and sequences with a form that is written for one dimension. A row with a
    wrong result is not timed, and the command fails.

    Example: python -m benchmarks natten --only 56x56
    """
    from .kernels import Settings, on_cpu
    from .natten import OPERATORS

    wrong = on_cpu(Settings(out, only, quick, seconds, click.echo), OPERATORS)
    if wrong:
        raise click.ClickException(f"{len(wrong)} results are wrong, the first: {wrong[0]}")


@main.command("static")
@click.option("--only", default="", metavar="TEXT", help="Only rows whose name contains this, such as 56x56 or window.")
@click.option(
    "--architecture",
    "architectures",
    type=click.Choice(ARCHITECTURES),
    multiple=True,
    help="Only this architecture; may be repeated.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Number of processes; by default the number of cores.")
@_out
def static_command(only: str, architectures: tuple[str, ...], jobs: int | None, out: Path) -> None:
    """Compile every kernel for GPUs that need not be present, and list registers, spills and shared memory.

    Example: python -m benchmarks static --architecture sm90
    """
    from .static import run_static

    run_static(architectures or ARCHITECTURES, jobs, only, out, click.echo)


@main.command("host")
@click.option("--rounds", type=click.IntRange(min=1), default=15, show_default=True, help="Rounds of 100 calls.")
@_out
def host_command(rounds: int, out: Path) -> None:
    """Measure the host's time per call of an operator with Triton kernels, on a driver that only records.

    Example: python -m benchmarks host
    """
    from .host import run_host

    run_host(rounds, out, click.echo)


@main.command("tune")
@click.option(
    "--only", default=" D32 ", metavar="TEXT", help="Only shapes whose name contains this.", show_default=True
)
@click.option(
    "--table",
    "tables",
    type=click.Choice(("intervals", "routed", "halo", "windows")),
    multiple=True,
    help="Only this table; may be repeated.",
)
@click.option("--seconds", type=click.FloatRange(0), default=240, show_default=True, help="Time limit.")
@click.option("--jobs", type=click.IntRange(min=1), help="Processes that compile; by default the number of cores.")
@_out
def tune_command(only: str, tables: tuple[str, ...], seconds: float, jobs: int | None, out: Path) -> None:
    """Search the launch tables' entries on the GPU of this machine, and print them as lines of the tables.

    Example: python -m benchmarks tune --table intervals --only "56x56"
    """
    from .tune import TABLES, run_tune

    run_tune(only, tables or TABLES, seconds, jobs, out, click.echo)


@main.command("models")
@click.argument("peer", type=click.Choice(PEERS))
@click.argument("models", nargs=-1)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    help="Batch size; may be repeated.  [default: 1, 8]",
)
@click.option("--quick", is_flag=True, help="Two rounds per row.")
@_out
def models_command(peer: str, models: tuple[str, ...], batches: tuple[int, ...], quick: bool, out: Path) -> None:
    """Measure MODELS against a PEER, interleaved, on one thread of a CPU.

    The peer is the formulation of the authors' code (official), or timm's model of the same name (timm). By default,
    all models that have such a peer, and published weights for up to 256 pixels, are measured.

    \b
    Examples:
      python -m benchmarks models official biformer_tiny
      python -m benchmarks models timm zoo_swin_tiny_patch4_window7_224
    """
    from .against import BATCHES, run_against

    run_against(peer, models, batches or BATCHES, quick, 10, out, click.echo)


@main.command("accelerate")
@click.argument("models", nargs=-1)
@click.option("--quick", is_flag=True, help="Two rounds per row.")
@_out
def accelerate_command(models: tuple[str, ...], quick: bool, out: Path) -> None:
    """Measure live MODELS of timm before and after `attnzoo.accelerate`, on one thread of a CPU.

    By default, the smallest published size of each family is measured, with batches of 1 and 8.
    """
    from .accelerate import run_accelerate

    run_accelerate(models, quick, out, click.echo)


@main.command("export")
@click.argument("models", nargs=-1)
@click.option("--batch", type=click.IntRange(min=1), help="Batch size.  [default: 1, 8]")
@click.option("--image-size", type=click.IntRange(min=1), help="Side of the images.  [default: the model's own]")
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(RUNTIMES),
    multiple=True,
    help="Only this runtime, and eager; may be repeated.",
)
@click.option("--quick", is_flag=True, help="Two rounds per row; compiled runtimes only if --runtime names them.")
@click.option("--seconds", type=click.FloatRange(min=0), default=20, show_default=True, help="Time per row.")
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
    """Measure MODELS as they are deployed: exported files compared with eager, on one thread of the CPU.

    MODELS are names that timm knows; by default, the models of attnzoo with published accuracy and up to 35 M
    parameters. The logits of each runtime are compared with eager first. A runtime with wrong logits is not timed, and
    the command fails. For a runtime that is not installed or cannot run the model, the reason is reported instead of a
    time. Writes a table and, for models with published accuracy, a figure of accuracy over latency.

    \b
    Examples:
      python -m benchmarks export
      python -m benchmarks export nat_mini --runtime onnxruntime --runtime gather
    """
    from .export import BATCHES, run_export

    wrong = run_export(models, (batch,) if batch else BATCHES, image_size, runtimes, quick, seconds, out, click.echo)
    if wrong:
        raise click.ClickException(f"{len(wrong)} results are wrong, the first: {wrong[0]}")


@main.command("training")
@click.argument("models", nargs=-1)
@click.option("--quick", is_flag=True, help="Turns of two steps, and few images.")
@_out
def training_command(models: tuple[str, ...], quick: bool, out: Path) -> None:
    """Measure the overhead of the training loop over bare training steps of MODELS, and how fast images are read.

    MODELS are names that timm knows; nat_pico and zoo_shvit_s1 by default. They are trained on the CPU at 224 pixels,
    on JPEG files made from scikit-image's photographs. Steps of the loop and bare steps are interleaved.
    """
    from .training import run_training

    run_training(models or TRAINED, quick, out, click.echo)


@main.command("quantization")
@click.option(
    "--seed", "seeds", type=click.IntRange(0), multiple=True, default=(0, 1), show_default=True, help="May be repeated."
)
@click.option("--epochs", type=click.IntRange(min=1), default=20, show_default=True, help="Epochs of each training.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that train.")
@_out
def quantization_command(seeds: tuple[int, ...], epochs: int, jobs: int, out: Path) -> None:
    """Measure what int8 costs a vision transformer on the digits, with softmax, clipped softmax and gated attention.

    Example: python -m benchmarks quantization --jobs 2
    """
    from .quantization import run_quantization

    run_quantization(seeds, epochs, jobs, out, click.echo)


@main.command("scaling")
@click.option(
    "--image-size",
    "images",
    type=click.IntRange(min=28),
    multiple=True,
    help="Side of the image, a multiple of 28; may be repeated.  [default: 224, 448, 896]",
)
@click.option("--quick", is_flag=True, help="Less time per row.")
@_out
def scaling_command(images: tuple[int, ...], quick: bool, out: Path) -> None:
    """Measure time and memory of the operators over resolution, on one thread of the CPU."""
    from .scaling import IMAGES, run_scaling

    run_scaling(images or IMAGES, quick, out, click.echo)


@main.command("table")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def table_command(file: Path) -> None:
    """Print a result FILE measured on a CPU as the Markdown table used in the documentation."""
    from .result_table import table

    try:
        click.echo(table(read_json(file)))
    except (AttributeError, LookupError, StopIteration, TypeError) as error:
        raise Mistake(
            f"{file} has no table: pass a result of the operators or models on a CPU, or of export"
        ) from error


@main.command("families")
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def families_command(page: Path) -> None:
    """Write the tables of README into a PAGE: the families and `accelerate`, from the registry and the results."""
    from .accelerate import write_accelerate
    from .family_table import write_families

    write_families(page, RESULTS)
    write_accelerate(page, RESULTS)


if __name__ == "__main__":
    main(prog_name="python -m benchmarks")
