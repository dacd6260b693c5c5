"""Building and running the training of a recipe."""

from __future__ import annotations

import copy
import importlib
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from ..data import TrainStream, open_loader, train_batches, val_batches
from ..files import storing
from .checkpoints import Checkpoints
from .curves import Curves
from .history import History
from .loop import TrainLoop
from .optimization import blaming, create_optimization, create_schedule
from .processes import Processes
from .progress import Progress
from .recipe import Recipe
from .resuming import check_resumed, describe
from .runner import TrainingRunner
from .setup import Setup
from .sharding import gathered, shard
from .storage import CONFIG, MODEL

# functions that create the setup of a task, imported when they are needed
SETUPS = {
    "classification": "attnzoo.tools.training.classification:classification",
    "detection": "attnzoo.tools.detection.training:detection",
}


def run(
    recipe: Recipe,
    work_dir: Path,
    resume_from: Mapping[str, Any] | None,
    processes: Processes,
    more_hooks: Sequence[Hook] = (),
) -> None:
    """Trains to the end.

    Args:
        recipe: the recipe.
        work_dir: directory of the run, which exists.
        resume_from: a checkpoint of the same recipe; None starts from scratch.
        processes: the processes of the training.
        more_hooks: additional hooks, which run after those of the training.

    Raises:
        ValueError: the recipe is invalid.
        TrainingError: the training cannot continue.
        InterruptedTraining: stopped by a signal; the run is stored.
    """
    where = {"rank": processes.rank, "processes": processes.count}
    with processes.stopping_together():
        _check_devices(recipe, processes)
        # the same initial weights on every process
        _seed(recipe.seed)
        task = _setup_of(recipe.task)(recipe, processes)
        batches = train_batches(
            task.train_set,
            recipe.batch_size,
            parts=recipe.accumulate,
            repeats=recipe.repeats,
            workers=recipe.workers,
            seed=recipe.seed,
            **where,
        )
        data, changed = {}, {}
        if processes.rank == 0:
            data = describe(task.train_set, task.val_set)
            changed = check_resumed(resume_from, recipe, data, isinstance(batches, TrainStream), processes)
    save_whole = _place(task, recipe, processes)
    with processes.stopping_together():
        optimization = create_optimization(recipe, task.network, processes)
        schedule = create_schedule(recipe, optimization.optimizer, batches.steps)
        ema = blaming("ema", ModelEmaV3, task.network, **recipe.ema) if recipe.ema else None
    judged = task.network if ema is None else ema.module
    history = History(task.judge.metric)
    part = max(1, recipe.batch_size // (processes.count * recipe.accumulate))
    judged_by = val_batches(task.val_set, part, **where)
    loader = open_loader(task.train_set, batches, recipe.workers)
    val_loader = open_loader(task.val_set, judged_by, recipe.workers)

    def validate(after_batch: Callable[[list[str]], None]) -> dict[str, float]:
        # all processes validate the buffers of rank 0, which are stored
        processes.copy_buffers(judged)
        with gathered(task.network):
            metrics = task.judge(judged, val_loader, after_batch)
        # in the history, `loss` is that of the training
        return {"val_loss" if name == "loss" else name: value for name, value in metrics.items()}

    def save_model(weights: Mapping[str, Tensor]) -> None:
        save_whole(judged, weights, work_dir / MODEL)

    def make_loop(runner: TrainingRunner) -> TrainLoop:
        common = judged_by.common
        return TrainLoop(
            runner, loader, batches, recipe, processes, history, ema, schedule, val_loader, validate, common
        )

    if recipe.compile:
        task.network.compile()
    hooks: list[Any] = [Checkpoints(work_dir, save_model, resume_from, data)]
    progress = Progress({**task.facts, **changed}, work_dir, task.judge.shares)
    if processes.rank == 0:
        with storing(work_dir / CONFIG) as fresh:
            fresh.write_text(recipe.to_python(), encoding="utf-8")
        hooks += [progress, Curves(work_dir, recipe.tensorboard)]
    hooks += more_hooks
    try:
        with tempfile.TemporaryDirectory(prefix="attnzoo-") as logs:
            TrainingRunner(
                task.learner, task.network, loader, optimization, recipe, processes, hooks, make_loop, Path(logs)
            ).train()
    finally:
        progress.stop()


def _setup_of(task: str) -> Callable[[Recipe, Processes], Setup]:
    module, _, name = SETUPS[task].partition(":")
    make: Callable[[Recipe, Processes], Setup] = getattr(importlib.import_module(module), name)
    return make


def _check_devices(recipe: Recipe, processes: Processes) -> None:
    if recipe.sync_batchnorm and processes.count > 1 and processes.device.type == "cpu":
        raise ValueError("sync_batchnorm=True needs GPUs, got device cpu: omit it")


def _place(
    task: Setup, recipe: Recipe, processes: Processes
) -> Callable[[nn.Module, Mapping[str, Tensor], Path], None]:
    """Moves the network of a task to the devices and returns a function that writes it to a directory."""
    network = task.network
    if processes.count > 1 and recipe.sync_batchnorm:
        # timm's function also converts its fused norm and activation layers
        convert_sync_batchnorm(network)
    if processes.count == 1 or recipe.parallel == "ddp":
        network.to(processes.device)
        return lambda judged, weights, directory: task.save(judged, directory)
    # a network on the meta device, into which the gathered weights are loaded
    shell = copy.deepcopy(network).to("meta")
    processes.copy_weights(network.to(processes.device))
    shard(network, processes)

    def save(judged: nn.Module, weights: Mapping[str, Tensor], directory: Path) -> None:
        shell.load_state_dict(weights, assign=True)
        task.save(shell, directory)

    return save


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
