"""`attnzoo train`: train a model from a config."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mmengine import Config

    from .training.recipe import Recipe


def train(config: Config, work_dir: Path, resume: bool = False) -> Path:
    """Trains a model from a config. All randomness follows from the config's seed.

    Args:
        config: the keys of `attnzoo.tools.training.recipe.Recipe`.
        work_dir: receives `model/` (the model of the best epoch), `best.pth` and `last.pth` (checkpoints of tensors,
            numbers and text, each sufficient to resume from), `history.json`, `curves.png`, `train.log` (the lines that
            are printed), and `config.py` (the config).
        resume: continue after the last stored step in `work_dir`; start from scratch if there is none.

    Returns:
        `work_dir / "model"`, opened by `timm.create_model(f"local-dir:{path}", pretrained=True)`.

    Raises:
        ValueError: the config is invalid; `work_dir` is not writable, is in use by another process, contains a run and
            `resume` is off, or contains a damaged run or the run of another config.
        TrainingError: the loss is not finite, or an image cannot be read.
        StorageError: the disk is full or gone.
        InterruptedTraining: stopped by SIGTERM or SIGINT; the run is stored.
    """
    import attnzoo  # noqa: F401  registers the models

    from .training.lock import locked
    from .training.processes import processes
    from .training.recipe import Recipe
    from .training.session import run
    from .training.storage import LAST, MODEL

    work_dir = Path(work_dir).absolute()
    with processes() as together, ExitStack() as stack:
        with together.stopping_together():
            recipe = Recipe.from_config(config)
            if together.rank == 0:
                stack.enter_context(locked(work_dir))
        # gathered from all processes before any of them writes
        seen = together.gather((work_dir / LAST).exists())
        with together.stopping_together():
            if any(seen) and not all(seen):
                raise ValueError(
                    f"process {seen.index(False)} cannot see {work_dir / LAST}, other processes can: --work-dir must "
                    "be on a file system that all machines share"
                )
            checkpoint = _read_run(work_dir / LAST, recipe, resume) if seen[0] else None
        run(recipe, work_dir, checkpoint, together)
    return work_dir / MODEL


def _read_run(last: Path, recipe: Recipe, resume: bool) -> dict[str, Any]:
    """Reads the checkpoint to resume from."""
    from .training.checkpoints import check_format
    from .training.resuming import check_recipe
    from .training.storage import read_checkpoint

    if not resume:
        raise ValueError(
            f"{last.parent} already contains a run: pass --resume to continue it, choose another --work-dir, or delete "
            "it"
        )
    checkpoint = read_checkpoint(last)
    check_format(checkpoint, last)
    check_recipe(checkpoint, recipe, last.parent)
    return checkpoint


def _usual_directory(config: Path, resume: bool) -> Path:
    """Returns the work directory of a config: that of a run if its own config is resumed, otherwise runs/CONFIG."""
    from .training.storage import CONFIG, LAST

    is_of_run = config.name == CONFIG and (config.parent / LAST).is_file()
    return config.parent if resume and is_of_run else Path("runs") / config.stem


@click.command("train", context_settings={"show_default": True})
@click.argument("config")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for the results.  [default: runs/CONFIG]",
)
@click.option("--resume", is_flag=True, help="Continue the run in the work directory, or start one if there is none.")
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE...", help="Override keys of the config.")
def train_command(
    config: str, options: tuple[str, ...], work_dir: Path | None, resume: bool, cfg_options: tuple[str, ...]
) -> None:
    """Train a classifier or a detector.

    CONFIG is the path of a training config (a Python file that contains data only) or the name of a packaged one, such
    as classification/digits, classification/imagefolder or detection/digits.

    The work directory receives model/ (the model of the best epoch, for attnzoo evaluate, predict and export; a
    classifier also opens with timm.create_model("local-dir:...")), the checkpoints best.pth and last.pth, history.json,
    curves.png, train.log and config.py, the config of the run with all options. SIGTERM and Ctrl-C store the run before
    it ends with exit code 143 or 130; --resume continues with the next step.

    \b
    Examples:
      attnzoo train classification/digits
      attnzoo train classification/digits --work-dir runs/short --cfg-options epochs=5 optimizer.lr=1e-3
      attnzoo train classification/digits --resume
      attnzoo train runs/short/config.py --resume epochs=10
      torchrun --nproc-per-node 4 -m attnzoo.tools.train classification/imagefolder data.root=photos
    """
    from .files import StorageError
    from .training.config import load_config
    from .training.loop import InterruptedTraining, TrainingError
    from .training.processes import processes

    try:
        with processes() as together:
            with together.stopping_together():
                loaded = load_config(config, (*cfg_options, *options))
            train(loaded, work_dir or _usual_directory(Path(config), resume), resume)
    except InterruptedTraining as stopped:
        click.echo(f"{stopped}, continue it with --resume", err=True)
        # the exit code that a shell reports for a process ended by a signal
        raise SystemExit(128 + stopped.signal) from stopped
    except (TrainingError, StorageError) as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["train", *sys.argv[1:]])
