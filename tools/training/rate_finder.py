"""The learning-rate finder: a short training with a growing learning rate (Smith, arXiv:1506.01186)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.utils.data import DataLoader

from attnzoo_command.steps import counted

from ..data import TrainBatches, TrainStream, open_loader, train_batches, worker_count
from ..files import storing
from ..tasks import function_of
from .optimization import NonFiniteError, create_optimization
from .processes import Processes
from .recipe import Recipe
from .session import seed_everything
from .setup import Setup

PICTURE = "learning-rate.png"

# optimizer steps, and the range of the rate
_STEPS = 100
_LOWEST, _HIGHEST = 1e-6, 1.0
# weight of the past in the moving average of the loss, and the multiple of its minimum that ends the search
_INERTIA, _DIVERGED = 0.9, 4.0
# at both ends of the curve the average has too few points, or the loss is about to diverge
_MARGIN = 5


def find_rate(recipe: Recipe, work_dir: Path, processes: Processes) -> float:
    """Returns the learning rate at which the loss falls fastest, and draws the loss over the rate to PICTURE.

    Args:
        recipe: the recipe; its schedule and learning rate are not used.
        work_dir: directory of the picture, which exists.
        processes: the process of the training.

    Raises:
        ValueError: the recipe is invalid, there are several processes, or the loss diverges at once.
    """
    if processes.count > 1:
        raise ValueError(f"--find-lr is for one process, got {processes.count}")
    rates, losses = _losses_by_rate(recipe, processes)
    chosen = steepest(rates, losses)
    _draw(rates, losses, chosen, work_dir / PICTURE)
    return chosen


def _losses_by_rate(recipe: Recipe, processes: Processes) -> tuple[list[float], list[float]]:
    """Trains with growing rates until the loss diverges; returns the rates, and the loss of the step with each."""
    seed_everything(recipe.seed)
    task: Setup = function_of(recipe.task, "train")(recipe, processes)
    workers = worker_count(recipe.workers, task.train_set, processes.on_this_machine)
    options: dict[str, Any] = {"parts": recipe.accumulate, "workers": workers, "seed": recipe.seed}
    batches = train_batches(task.train_set, recipe.batch_size, **options)
    loader = open_loader(task.train_set, batches, workers, processes.device)
    learner = task.learner.to(processes.device).train()
    optimization = create_optimization(recipe, task.network, processes)
    rates: list[float] = []
    losses: list[float] = []
    stream = _endless(batches, loader)
    with counted("trying learning rates", _STEPS) as advance:
        for step in range(_STEPS):
            rate = _LOWEST * (_HIGHEST / _LOWEST) ** (step / (_STEPS - 1))
            for group in optimization.optimizer.param_groups:
                # layer decay scales the rate of a group
                group["lr"] = rate * group.get("lr_scale", 1.0)
            total = 0.0
            try:
                for _ in range(recipe.accumulate):
                    batch = {key: x for key, x in next(stream).items() if key not in ("name", "unreadable")}
                    learner.train_step(batch, optim_wrapper=optimization)
                    total += float(optimization.loss)
            except NonFiniteError:
                break
            rates.append(rate)
            losses.append(total / recipe.accumulate)
            advance()
            if smoothed(losses)[-1] > _DIVERGED * min(smoothed(losses)):
                break
    return rates, losses


def _endless(batches: TrainBatches | TrainStream, loader: DataLoader[Any]) -> Iterator[dict[str, Any]]:
    for epoch in itertools.count():
        batches.start(epoch, 0)
        yield from loader


def smoothed(losses: Sequence[float]) -> list[float]:
    """Returns the exponential moving average of losses, without bias at its start."""
    averages: list[float] = []
    total = 0.0
    for count, loss in enumerate(losses, 1):
        total = _INERTIA * total + (1 - _INERTIA) * loss
        averages.append(total / (1 - _INERTIA**count))
    return averages


def steepest(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Returns the rate at which the smoothed loss falls fastest, over the logarithm of the rate.

    Raises:
        ValueError: the loss does not fall anywhere.
    """
    averages = smoothed(losses)
    inner = range(_MARGIN, len(averages) - _MARGIN)
    slopes = {i: (averages[i + 1] - averages[i - 1]) / math.log(rates[i + 1] / rates[i - 1]) for i in inner}
    if not slopes or min(slopes.values()) >= 0:
        raise ValueError("the loss falls at no learning rate: check the data and the model")
    return rates[min(slopes, key=lambda i: slopes[i])]


def _draw(rates: Sequence[float], losses: Sequence[float], chosen: float, path: Path) -> None:
    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.semilogx(rates, losses, color="#9fb8d8", linewidth=0.8)
    axes.semilogx(rates, smoothed(losses), color="#1f4e9c")
    axes.axvline(chosen, color="#e8710a", linestyle="--", linewidth=1)
    axes.set_title(f"loss over the learning rate; steepest at {chosen:.1e} (dashed)", fontsize=10)
    axes.set_xlabel("learning rate")
    axes.set_ylabel("loss")
    axes.grid(alpha=0.3)
    with storing(path) as fresh:
        figure.savefig(fresh, format="png")
