"""Training curves: the history, `history.json`, a plot, and optionally a tracker."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from mmengine.hooks import Hook

from ..files import storing
from .history import History
from .runner import TrainingRunner
from .tracking import Tracker

HISTORY, PICTURE, TENSORBOARD = "history.json", "curves.png", "tensorboard"
# drawing takes half a second, and an epoch of a small data set not much longer
_SECONDS_BETWEEN_PICTURES = 60.0
# on the curves of loss and learning rate
_LEAST_POINTS = 50


class Curves(Hook):
    """Records loss and learning rate, and plots them with the metrics.

    Args:
        work_dir: directory for the files.
        tracker: also records the scalars.
    """

    priority = "NORMAL"

    def __init__(self, work_dir: Path, tracker: Tracker) -> None:
        self.work_dir, self.tracker = work_dir, tracker
        self._drawn = time.monotonic()

    def after_train_iter(self, runner: TrainingRunner, batch_idx: int, outputs: Any = None, **_: Any) -> None:
        """Records the loss and the learning rate every `log_interval` steps, in short runs more often."""
        loop = runner.train_loop
        # a short run has at least so many points
        interval = min(loop.recipe.log_interval, max(1, loop.max_steps // _LEAST_POINTS))
        if loop.iter % loop.recipe.accumulate or loop.step % interval:
            return
        rate = max(group["lr"] for group in runner.optim_wrapper.optimizer.param_groups)
        losses = {name: float(value.detach()) for name, value in outputs.items()}
        loop.history.steps.append((loop.step, losses["loss"], float(rate)))
        scalars = {f"train/{name}": value for name, value in losses.items()}
        memory = {} if loop.speed.memory is None else {"train/memory_gb": loop.speed.memory / 1e9}
        speed = {"train/images_per_second": loop.speed.images_per_second, **memory}
        self.tracker.add({**scalars, "train/lr": float(rate), **speed}, loop.step)

    def after_epoch(self, runner: TrainingRunner, metrics: Mapping[str, float], improved: bool) -> None:
        """Writes the history, and the plot if the last one is old enough."""
        loop = runner.train_loop
        if metrics:
            self.tracker.add({f"val/{name.removeprefix('val_')}": x for name, x in metrics.items()}, loop.step)
        with storing(self.work_dir / HISTORY) as fresh:
            fresh.write_text(json.dumps(loop.history.state(), indent=1) + "\n")
        if time.monotonic() - self._drawn > _SECONDS_BETWEEN_PICTURES:
            draw_curves(loop.history, loop.steps_per_epoch, self.work_dir / PICTURE)
            self._drawn = time.monotonic()

    def after_train(self, runner: TrainingRunner) -> None:
        """Draws the final plot."""
        draw_curves(runner.train_loop.history, runner.train_loop.steps_per_epoch, self.work_dir / PICTURE)
        self.tracker.close()


def draw_curves(history: History, steps_per_epoch: int, path: Path) -> None:
    """Plots loss, learning rate and the metric over epochs.

    Args:
        history: the history of the training.
        steps_per_epoch: converts steps to epochs.
        path: PNG file to write.
    """
    figure = Figure(figsize=(11, 3.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates, scores = figure.subplots(1, 3)
    epochs = [step / steps_per_epoch for step, _, _ in history.steps]
    losses.plot(epochs, [loss for _, loss, _ in history.steps], color="#9fb8d8", linewidth=0.8, label="of a step")
    means = [epoch["loss"] for epoch in history.epochs]
    losses.plot([e["epoch"] for e in history.epochs], means, color="#1f4e9c", label="mean of an epoch")
    judged = [epoch for epoch in history.epochs if "val_loss" in epoch]
    if judged:
        validation = [epoch["val_loss"] for epoch in judged]
        losses.plot([e["epoch"] for e in judged], validation, color="#e8710a", marker=".", label="validation")
    losses.set_title("loss", fontsize=10)
    losses.legend(fontsize=8)
    rates.plot(epochs, [rate for _, _, rate in history.steps], color="#1f4e9c")
    rates.set_title("learning rate", fontsize=10)
    validated = [epoch for epoch in history.epochs if history.metric in epoch]
    scores.plot([e["epoch"] for e in validated], [e[history.metric] for e in validated], color="#1f4e9c", marker=".")
    if history.best is not None:
        scores.axvline(history.best["epoch"], color="#e8710a", linestyle="--", linewidth=1)
    scores.set_title(f"{history.metric} (dashed: best epoch)", fontsize=10)
    for axes in (losses, rates, scores):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    with storing(path) as fresh:
        figure.savefig(fresh, format="png")
