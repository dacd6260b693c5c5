"""A training from a recipe: the parts are made, put together and run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timm.utils import ModelEmaV3

from ..data import open_loader, train_batches, val_batches
from .checkpoints import Checkpoints
from .classification import classification
from .curves import Curves
from .loop import TrainLoop
from .optimization import blaming, create_optimization, create_schedule
from .processes import Processes
from .progress import Progress
from .recipe import Recipe
from .record import Record
from .runner import TrainingRunner
from .storage import MODEL, check_writable
from .task import Task

TASKS: dict[str, Callable[[Recipe, Processes], Task]] = {"classification": classification}


def run(recipe: Recipe, work_dir: Path, resume_from: Mapping[str, Any] | None, processes: Processes) -> None:
    """Trains to the end.

    Args:
        recipe: what to train and how.
        work_dir: where it is stored.
        resume_from: a checkpoint of the same recipe; None starts anew.
        processes: that train together.

    Raises:
        ValueError: the recipe asks for what there is not, or `work_dir` cannot be written to.
        TrainingError: the training cannot go on.
        InterruptedTraining: a signal asked it to stop, and it is stored.
    """
    # the same weights on every process
    _seed(recipe.seed)
    task = TASKS[recipe.task](recipe, processes)
    where = {"rank": processes.rank, "processes": processes.count}
    batches = train_batches(
        task.train_set,
        recipe.batch_size,
        parts=recipe.accumulate,
        repeats=recipe.repeats,
        workers=recipe.workers,
        seed=recipe.seed,
        **where,
    )
    task.network.to(processes.device)
    optimization = create_optimization(recipe, task.network, processes.device)
    schedule = create_schedule(recipe, optimization.optimizer, batches.steps)
    ema = blaming("ema", ModelEmaV3, task.network, **recipe.ema) if recipe.ema else None
    judged = task.network if ema is None else ema.module
    record = Record(task.judge.metric)
    part = max(1, recipe.batch_size // (processes.count * recipe.accumulate))
    judged_by = val_batches(task.val_set, part, **where)
    loader = open_loader(task.train_set, batches, recipe.workers)
    val_loader = open_loader(task.val_set, judged_by, recipe.workers)

    def validate(after_batch: Callable[[list[str]], None]) -> dict[str, float]:
        return task.judge(judged, val_loader, after_batch)

    def make_loop(runner: TrainingRunner) -> TrainLoop:
        return TrainLoop(runner, loader, batches, recipe, processes, record, ema, schedule, validate, judged_by.common)

    if processes.rank == 0:
        check_writable(work_dir)
    if recipe.compile:
        task.network.compile()
    hooks: list[Any] = [Checkpoints(work_dir, lambda: task.save(judged, work_dir / MODEL), resume_from)]
    progress = Progress(task.facts, work_dir, task.judge.shares)
    if processes.rank == 0:
        hooks += [progress, Curves(work_dir, recipe.tensorboard)]
    try:
        TrainingRunner(
            task.learner, task.network, loader, optimization, recipe, processes, hooks, make_loop, work_dir
        ).train()
    finally:
        progress.stop()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
