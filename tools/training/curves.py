"""Training curves: the history, `history.json`, a plot, and optionally TensorBoard."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from mmengine.hooks import Hook

from ..files import storing
from .history import History
from .runner import TrainingRunner

HISTORY, PICTURE = "history.json", "curves.png"
# drawing takes half a second, and an epoch of a small data set not much longer
_SECONDS_BETWEEN_PICTURES = 60.0
# on the curves of loss and learning rate
_LEAST_POINTS = 50


class Curves(Hook):
    """Records loss and learning rate, and plots them with the metrics.

    Args:
        work_dir: directory for the files.
        tensorboard: also write TensorBoard scalars.
    """

    priority = "NORMAL"

    def __init__(self, work_dir: Path, tensorboard: bool) -> None:
        self.work_dir, self.writer = work_dir, None
        self._drawn = time.monotonic()
        if tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(str(work_dir / "tensorboard"))

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
        if self.writer is not None:
            for name, value in losses.items():
                self.writer.add_scalar(f"train/{name}", value, loop.step)
            self.writer.add_scalar("train/lr", rate, loop.step)

    def after_epoch(self, runner: TrainingRunner, metrics: Mapping[str, float], improved: bool) -> None:
        """Writes the history, and the plot if the last one is old enough."""
        loop = runner.train_loop
        if self.writer is not None:
            for name, value in metrics.items():
                self.writer.add_scalar(f"val/{name.removeprefix('val_')}", value, loop.step)
            self.writer.flush()
        with storing(self.work_dir / HISTORY) as fresh:
            fresh.write_text(json.dumps(loop.history.state(), indent=1) + "\n")
        if time.monotonic() - self._drawn > _SECONDS_BETWEEN_PICTURES:
            draw_curves(loop.history, loop.steps_per_epoch, self.work_dir / PICTURE)
            self._drawn = time.monotonic()

    def after_train(self, runner: TrainingRunner) -> None:
        """Draws the final plot."""
        draw_curves(runner.train_loop.history, runner.train_loop.steps_per_epoch, self.work_dir / PICTURE)
        if self.writer is not None:
            self.writer.close()


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
    losses.plot(epochs, [loss for _, loss, _ in history.steps], color="#9fb8d8", linewidth=0.8)
    losses.plot([e["epoch"] for e in history.epochs], [e["loss"] for e in history.epochs], color="#1f4e9c")
    judged = [epoch for epoch in history.epochs if "val_loss" in epoch]
    losses.plot([e["epoch"] for e in judged], [e["val_loss"] for e in judged], color="#e8710a", marker=".")
    validation = ", validation (orange)" if judged else ""
    losses.set_title(f"loss: steps (light), epoch mean (dark){validation}", fontsize=10)
    rates.plot(epochs, [rate for _, _, rate in history.steps], color="#1f4e9c")
    rates.set_title("learning rate", fontsize=10)
    validated = [epoch for epoch in history.epochs if history.metric in epoch]
    scores.plot([e["epoch"] for e in validated], [e[history.metric] for e in validated], color="#1f4e9c", marker=".")
    if history.best is not None:
        scores.axvline(history.best["epoch"], color="#e8710a", linestyle="--", linewidth=1)
    scores.set_title(f"{history.metric} (dashed: best epoch)", fontsize=10)
    for axes in (losses, rates, scores):
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
    with storing(path) as fresh:
        figure.savefig(fresh, format="png")
