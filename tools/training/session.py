"""A training from a recipe: the parts are made, put together and run."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from timm.utils import ModelEmaV3
from torch.utils.data import DataLoader

from ..data import Samples, StreamedImages, TrainBatches, TrainStream, ValBatches, ValStream
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
from .storage import MODEL
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
        ValueError: the recipe asks for what there is not.
        TrainingError: the training cannot go on.
        InterruptedTraining: a signal asked it to stop, and it is stored.
    """
    # the same weights on every process
    _seed(recipe.seed)
    task = TASKS[recipe.task](recipe, processes)
    batches = _train_batches(task.train_set, recipe, processes)
    if resume_from is not None and isinstance(batches, TrainStream) and len(resume_from["random"]) != processes.count:
        raise ValueError(
            f"shards are shared among processes: a run that {len(resume_from['random'])} began continues on as many, "
            f"not on {processes.count}"
        )
    task.network.to(processes.device)
    optimization = create_optimization(recipe, task.network, processes.device)
    schedule = create_schedule(recipe, optimization.optimizer, batches.steps)
    ema = blaming("ema", ModelEmaV3, task.network, **recipe.ema) if recipe.ema else None
    judged = task.network if ema is None else ema.module
    record = Record(task.judge.metric)
    val_batches = _val_batches(task.val_set, recipe, processes)
    loader, val_loader = _loader(task.train_set, batches, recipe), _loader(task.val_set, val_batches, recipe)

    def validate(after_batch: Callable[[list[str]], None]) -> dict[str, float]:
        return task.judge(judged, val_loader, after_batch)

    def make_loop(runner: TrainingRunner) -> TrainLoop:
        return TrainLoop(
            runner, loader, batches, recipe, processes, record, ema, schedule, validate, val_batches.common
        )

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


def _train_batches(
    samples: Samples | StreamedImages, recipe: Recipe, processes: Processes
) -> TrainBatches | TrainStream:
    where: dict[str, int] = {"rank": processes.rank, "processes": processes.count, "seed": recipe.seed}
    if isinstance(samples, Samples):
        return TrainBatches(len(samples), recipe.batch_size, parts=recipe.accumulate, repeats=recipe.repeats, **where)
    if recipe.repeats > 1:
        raise ValueError(f"repeats={recipe.repeats} is for data with an index: a stream has each image once")
    return TrainStream(samples, recipe.batch_size, parts=recipe.accumulate, workers=recipe.workers, **where)


def _val_batches(samples: Samples | StreamedImages, recipe: Recipe, processes: Processes) -> ValBatches | ValStream:
    batch_size = max(1, recipe.batch_size // (processes.count * recipe.accumulate))
    if isinstance(samples, Samples):
        return ValBatches(len(samples), batch_size, rank=processes.rank, processes=processes.count)
    return ValStream(samples, batch_size, rank=processes.rank, processes=processes.count)


def _loader(
    samples: Samples | StreamedImages, batches: TrainBatches | ValBatches | TrainStream | ValStream, recipe: Recipe
) -> DataLoader[Any]:
    options: dict[str, Any] = {
        "num_workers": recipe.workers,
        "pin_memory": torch.cuda.is_available(),
        "worker_init_fn": _one_thread,
        # a loader without its own draws a seed from the training's random numbers, which a resumed run has drawn before
        "generator": torch.Generator(),
    }
    if isinstance(batches, (TrainStream, ValStream)):
        # whole batches already
        return DataLoader(batches, batch_size=None, **options)
    return DataLoader(cast(Samples, samples), batch_sampler=batches, collate_fn=samples.collate, **options)


def _one_thread(worker: int) -> None:
    torch.set_num_threads(1)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
