"""Training a model from a config: what `attnzoo train` calls."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmengine import Config


def train(config: Config, work_dir: Path, resume: bool = False, overwrite: bool = False) -> Path:
    """Trains a model from a config. All randomness follows from the config's seed.

    Args:
        config: the keys of `attnzoo.tools.training.recipe.Recipe`; `batch_size` may be "auto".
        work_dir: receives `model/` (the model of the best epoch), `best.pth` and `last.pth` (checkpoints of tensors,
            numbers and text; the latter is sufficient to resume from), `history.json`, `curves.png`, `train.log` (the
            lines that are printed), and `config.py` (the config).
        resume: continue after the last stored step in `work_dir`; start from scratch if there is none.
        overwrite: replace a run in `work_dir`, as soon as the new one has stored a checkpoint.

    Returns:
        `work_dir / "model"`, opened by `timm.create_model(f"local-dir:{path}", pretrained=True)`.

    Raises:
        ValueError: the config is invalid; `work_dir` is not writable, is in use by another process, contains a run and
            `resume` and `overwrite` are off, or contains a damaged run or the run of another config.
        TrainingError: the loss is not finite, or an image cannot be read.
        StorageError: the disk is full or gone.
        InterruptedTraining: stopped by SIGTERM or SIGINT; the run is stored.
    """
    from mmengine import Config

    import attnzoo  # noqa: F401  registers the models

    from .training.batch_size import AUTO, largest_batch_size
    from .training.lock import locked
    from .training.processes import processes
    from .training.recipe import Recipe
    from .training.replacing import bring_back
    from .training.resuming import check_recipe, stored_batch_size
    from .training.session import run
    from .training.storage import LAST, MODEL

    work_dir = Path(work_dir).absolute()
    with processes() as together, ExitStack() as stack:
        with together.stopping_together():
            if resume and overwrite:
                raise ValueError("--resume continues a run, --overwrite replaces it: pass one of them")
            is_automatic = config.get("batch_size") == AUTO
            recipe = Recipe.from_config(Config({**config, "batch_size": 1}) if is_automatic else config)
            together = together.on(recipe.device)
            if together.rank == 0:
                stack.enter_context(locked(work_dir))
                bring_back(work_dir)
        # gathered from all processes before any of them writes
        seen = together.gather((work_dir / LAST).exists())
        with together.stopping_together():
            if any(seen) and not all(seen):
                raise ValueError(
                    f"process {seen.index(False)} cannot see {work_dir / LAST}, other processes can: --work-dir must "
                    "be on a file system that all machines share"
                )
            checkpoint = _read_run(work_dir / LAST, resume) if seen[0] and not overwrite else None
        if is_automatic:
            # a run keeps its batch size, also on another GPU
            size = largest_batch_size(recipe, together) if checkpoint is None else stored_batch_size(checkpoint)
            recipe = replace(recipe, batch_size=size)
        with together.stopping_together():
            if checkpoint is not None:
                check_recipe(checkpoint, recipe, work_dir)
        run(recipe, work_dir, checkpoint, together)
    return work_dir / MODEL


def find_rate(config: Config, work_dir: Path) -> tuple[float, Path]:
    """Returns the learning rate at which the loss of a config falls fastest, and a picture of the loss over the rate.

    Args:
        config: the keys of `attnzoo.tools.training.recipe.Recipe`.
        work_dir: receives the picture.

    Raises:
        ValueError: the config is invalid, or the loss does not fall.
    """
    import attnzoo  # noqa: F401  registers the models

    from .files import check_writable
    from .training import rate_finder
    from .training.processes import processes
    from .training.recipe import Recipe

    with processes() as together, together.stopping_together():
        recipe = Recipe.from_config(config)
        check_writable(work_dir, "choose another --work-dir")
        return rate_finder.find_rate(recipe, work_dir, together.on(recipe.device)), work_dir / rate_finder.PICTURE


def _read_run(last: Path, resume: bool) -> dict[str, Any]:
    """Reads the checkpoint to resume from."""
    from .training.checkpoints import check_format
    from .training.storage import read_checkpoint

    if not resume:
        raise ValueError(
            f"{last.parent} already contains a run: pass --resume to continue it, --overwrite to replace it, or "
            "choose another --work-dir"
        )
    checkpoint = read_checkpoint(last)
    check_format(checkpoint, last)
    return checkpoint


def usual_directory(config: Path) -> Path:
    """Returns the work directory of a config: that of the run whose own config it is, otherwise runs/CONFIG."""
    from .training.storage import CONFIG, LAST

    is_of_run = config.name == CONFIG and (config.parent / LAST).is_file()
    return config.parent if is_of_run else Path("runs") / config.stem


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["train", *sys.argv[1:]])
