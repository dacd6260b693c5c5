"""The output of a training: a summary, a line per epoch, a progress bar on a terminal, and a final table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from rich import progress
from rich.console import Console
from rich.table import Table

from ..devices import describe_device
from ..files import plural
from .runner import TrainingRunner
from .storage import MODEL, sizes

LOG = "train.log"

# without a progress bar, a long epoch prints a line now and then
SECONDS_BETWEEN_LINES = 30.0
# maximum number of unreadable files listed at the end
_LISTED = 20
# files and folders whose size is listed at the end
_SIZES = 3
# more metrics do not fit into 80 columns
_METRICS_IN_A_ROW = 6


class Progress(Hook):
    """Prints the progress of a training, on rank 0.

    Args:
        facts: lines of the summary, by title.
        work_dir: directory of the run.
        shares: names of the metrics that are shown in percent.
    """

    # after the hook that restores a run
    priority = "LOWEST"

    def __init__(self, facts: Mapping[str, str], work_dir: Path, shares: Sequence[str] = ()) -> None:
        self.facts, self.work_dir, self.shares = facts, work_dir, shares
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.TextColumn("loss {task.fields[loss]:.3f}  {task.fields[speed]}  left"),
            progress.TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )

    def before_train(self, runner: TrainingRunner) -> None:
        """Prints the summary and starts the progress bar."""
        loop = runner.train_loop
        network, recipe = runner.network, loop.recipe
        trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in network.parameters()) - trained
        schedule = recipe.schedule.get("sched", "cosine") if recipe.schedule else "constant"
        device, count = describe_device(loop.processes.device), loop.processes.count
        lines = {
            **self.facts,
            "parameters": f"{trained / 1e6:.2f} M" + (f" trainable, {frozen / 1e6:.2f} M frozen" if frozen else ""),
            "schedule": f"{plural(loop.max_epochs, 'epoch')} of {plural(loop.steps_per_epoch, 'step')}, batch size "
            f"{loop.batches.batch_size}, {recipe.optimizer.get('opt', 'sgd')}, learning rate "
            f"{recipe.optimizer.get('lr', 'default')}, {schedule}",
            "device": (f"{count} x " if count > 1 else "") + f"{device}, {recipe.precision}",
            "work dir": short(self.work_dir),
        }
        for key, value in lines.items():
            self._print(f"{key:<11}{value}")
        warmup = recipe.schedule.get("warmup_epochs") or 0
        if warmup >= loop.max_epochs:
            self._print(
                f"{'warmup':<11}{plural(warmup, 'epoch')}: the learning rate does not reach optimizer.lr in "
                f"{loop.max_epochs}, set schedule.warmup_epochs=0"
            )
        if loop.iter:
            epoch = min(loop.epoch + 1, loop.max_epochs)
            self._print(f"{'resumed':<11}after step {loop.step} of {loop.max_steps}, in epoch {epoch}")
        self._spoken = self._started = time.monotonic()
        self._first_iter = loop.iter
        self.bar.start()
        self._task = self.bar.add_task(
            "", total=loop.max_iters, completed=loop.iter, epoch=loop.epoch, loss=0.0, speed=""
        )

    def after_train_iter(self, runner: TrainingRunner, batch_idx: int, **_: Any) -> None:
        """Updates the bar; without a bar, print a line every `SECONDS_BETWEEN_LINES`."""
        loop = runner.train_loop
        self.bar.update(self._task, advance=1, epoch=loop.epoch + 1, loss=loop.mean.value, speed=loop.speed)
        if not self.console.is_terminal and time.monotonic() - self._spoken > SECONDS_BETWEEN_LINES:
            batch = f"batch {batch_idx + 1}/{loop.batches_per_epoch}"
            self._say(runner, loop.epoch + 1, f"loss {loop.mean.value:.3f}  {self._rate(runner)}  {batch}")

    def after_epoch(self, runner: TrainingRunner, metrics: Mapping[str, float], improved: bool) -> None:
        """Prints a line for the epoch."""
        loop = runner.train_loop
        shown = "".join(f"  {name} {self._format(name, value)}" for name, value in metrics.items())
        self._say(runner, loop.epoch, f"loss {loop.mean.value:.3f}{shown}  {self._rate(runner)}")

    def after_train(self, runner: TrainingRunner) -> None:
        """Prints the best and last metrics, the model directory, and the skipped files."""
        self.bar.stop()
        loop, history = runner.train_loop, runner.train_loop.history
        if loop.epoch < loop.max_epochs:
            self._print(f"stopped early: no improvement in the last {plural(history.waited(), 'epoch')}")
        validated = [epoch for epoch in history.epochs if history.metric in epoch]
        if history.best is not None:
            self.console.print(self._table({"best": history.best, "last": validated[-1]}))
            self._print(f"model saved to {short(self.work_dir / MODEL)}")
        space = sizes(self.work_dir)
        largest = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in list(space.items())[:_SIZES])
        self._print(f"the run takes {sum(space.values()) / 1e6:.1f} MB: {largest}")
        if history.unreadable:
            self._print(f"skipped {plural(len(history.unreadable), 'file')} that could not be read:")
            for message in history.unreadable[:_LISTED]:
                self._print(f"  {message}")
            if len(history.unreadable) > _LISTED:
                self._print(f"  and {len(history.unreadable) - _LISTED} more")

    def stop(self) -> None:
        """Stops the progress bar, which hides the cursor."""
        self.bar.stop()

    def _table(self, epochs: Mapping[str, Mapping[str, float]]) -> Table:
        names = [name for name in epochs["best"] if name != "epoch"]
        rows = [
            [title, str(int(values["epoch"])), *(self._format(name, values[name]) for name in names)]
            for title, values in epochs.items()
        ]
        header = ["", "epoch", *names]
        # many metrics are shown in rows instead of columns
        if len(names) > _METRICS_IN_A_ROW:
            header, *rows = [list(line) for line in zip(header, *rows, strict=True)]
        table = Table(*header)
        for row in rows:
            table.add_row(*row)
        return table

    def _format(self, name: str, value: float) -> str:
        return f"{value:.2%}" if name in self.shares else f"{value:.4g}"

    def _rate(self, runner: TrainingRunner) -> str:
        rate = max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)
        return f"lr {rate:.2g}  {runner.train_loop.speed}"

    def _say(self, runner: TrainingRunner, epoch: int, what: str) -> None:
        loop = runner.train_loop
        self._spoken = time.monotonic()
        spent = self._spoken - self._started
        left = spent / max(1, loop.iter - self._first_iter) * (loop.max_iters - loop.iter)
        times = f"{timedelta(seconds=round(spent))} elapsed, {timedelta(seconds=round(left))} left"
        self._print(f"epoch {epoch:>{len(str(loop.max_epochs))}}/{loop.max_epochs}  {what}  {times}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False)
        # a full disk is reported when the run is stored
        with contextlib.suppress(OSError), (self.work_dir / LOG).open("a", encoding="utf-8") as log:
            log.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}  {line}\n")


def short(path: Path) -> str:
    """Formats a path: relative if it is below the current directory."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
