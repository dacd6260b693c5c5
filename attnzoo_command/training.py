"""`attnzoo train`: mistakes are looked for before torch is imported."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .checks import check_training, recipe_keys
from .devices import device_option
from .keys import translated


class TrainCommand(click.Command):
    """A command that says how a key of the config is given, if it is given as an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the arguments.

        Raises:
            UsageError: an option is unknown.
        """
        arguments = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-").replace("-", "_")
            text = _value_of(error.option_name, arguments)
            meant = f"{name}={text or 'VALUE'}" if name in recipe_keys() else translated(name, text, "classification")
            if not meant or meant.startswith("-"):
                raise
            raise click.UsageError(f"there is no option {error.option_name}: write {meant}", ctx) from error


def _value_of(option: str, arguments: list[str]) -> str:
    """Returns the value of an option, `--option=value` or `--option value`; empty if it has none."""
    for given, after in zip(arguments, [*arguments[1:], ""], strict=True):
        if given.startswith(f"{option}="):
            return given.partition("=")[2]
        if given == option:
            return "" if after.startswith("-") or "=" in after else after
    return ""


@click.command("train", cls=TrainCommand, context_settings={"show_default": True})
@click.argument("config")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--work-dir",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory for the results.  [default: runs/CONFIG]",
)
@click.option("--resume", is_flag=True, help="Continue the run in the work directory, or start one if there is none.")
@click.option("--overwrite", is_flag=True, help="Replace the run in the work directory.")
@device_option
@click.option(
    "--find-lr", is_flag=True, help="Find a learning rate instead of training: try 100 steps of growing rates."
)
@click.option("--cfg-options", multiple=True, metavar="KEY=VALUE...", help="Override keys of the config.")
def train_command(
    config: str, options: tuple[str, ...], work_dir: Path | None, resume: bool, overwrite: bool, device: str,
    find_lr: bool, cfg_options: tuple[str, ...],
) -> None:  # fmt: skip
    """Train a classifier, a detector or a segmenter.

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
      attnzoo train classification/digits --find-lr
      attnzoo train runs/short/config.py --resume epochs=10
      attnzoo train classification/imagefolder data.root=photos model.weights=runs/a
      torchrun --nproc-per-node 4 -m attnzoo.tools.train classification/imagefolder data.root=photos
    """
    # processes that are started together find mistakes together
    if "RANK" not in os.environ:
        check_training(config, (*cfg_options, *options), device)
    from attnzoo.tools.files import StorageError
    from attnzoo.tools.train import find_rate, train, usual_directory
    from attnzoo.tools.training.config import load_config
    from attnzoo.tools.training.loop import InterruptedTraining, TrainingError
    from attnzoo.tools.training.processes import processes

    try:
        with processes() as together:
            with together.stopping_together():
                chosen = () if device == "auto" else (f"device={device}",)
                loaded = load_config(config, (*cfg_options, *options, *chosen))
            if find_lr:
                rate, picture = find_rate(loaded, work_dir or usual_directory(Path(config)))
                click.echo(f"the loss falls fastest at optimizer.lr={rate:.1e}; the curve is in {picture}")
                return
            train(loaded, work_dir or usual_directory(Path(config)), resume, overwrite)
    except InterruptedTraining as stopped:
        click.echo(f"{stopped}, continue it with --resume", err=True)
        # the exit code that a shell reports for a process ended by a signal
        raise SystemExit(128 + stopped.signal) from stopped
    except (TrainingError, StorageError) as error:
        raise click.ClickException(str(error)) from error
