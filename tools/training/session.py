"""Building and running the training of a recipe."""

from __future__ import annotations

import copy
import random
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from timm.layers import convert_sync_batchnorm
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from attnzoo_command.steps import step

from ..data import TrainStream, cores, open_loader, train_batches, val_batches, worker_count
from ..files import storing
from ..tasks import function_of
from .checkpoints import Checkpoints
from .curves import Curves
from .history import History
from .loop import TrainLoop
from .optimization import blaming, create_optimization, create_schedule
from .processes import Processes
from .progress import Progress
from .recipe import Recipe
from .replacing import set_aside
from .resuming import check_resumed, describe
from .runner import TrainingRunner
from .setup import Setup
from .sharding import gathered, shard
from .storage import CONFIG, LAST, MODEL
from .tracking import Tracker


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
        resume_from: a checkpoint of the same recipe; None starts from scratch, and replaces a run in `work_dir`.
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
        seed_everything(recipe.seed)
        step("reading the data and creating the model")
        task: Setup = function_of(recipe.task, "train")(recipe, processes)
        workers = worker_count(recipe.workers, task.train_set, processes.on_this_machine)
        batches = train_batches(
            task.train_set,
            recipe.batch_size,
            parts=recipe.accumulate,
            repeats=recipe.repeats,
            workers=workers,
            seed=recipe.seed,
            **where,
        )
        data, changed = {}, {}
        if processes.rank == 0:
            data = describe(task.train_set, task.val_set)
            changed = check_resumed(resume_from, recipe, data, isinstance(batches, TrainStream), processes)
    step("")
    save_whole = _place(task, recipe, processes)
    with processes.stopping_together():
        optimization = create_optimization(recipe, task.network, processes)
        schedule = create_schedule(recipe, optimization.optimizer, batches.steps)
        ema = blaming("ema", ModelEmaV3, task.network, **recipe.ema) if recipe.ema else None
    judged = task.network if ema is None else ema.module
    history = History(task.judge.metric)
    part = max(1, recipe.batch_size // (processes.count * recipe.accumulate))
    judged_by = val_batches(task.val_set, part, **where)
    loader = open_loader(task.train_set, batches, workers, processes.device)
    val_loader = open_loader(task.val_set, judged_by, workers, processes.device)

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
    progress = Progress({**task.facts, "workers": _loading(workers, processes), **changed}, work_dir, task.judge.shares)
    with ExitStack() as stack:
        if processes.rank == 0:
            if resume_from is None and (work_dir / LAST).exists():
                stack.enter_context(set_aside(work_dir))
            with storing(work_dir / CONFIG) as fresh:
                fresh.write_text(recipe.to_python(), encoding="utf-8")
            hooks += [progress, Curves(work_dir, Tracker(recipe, work_dir))]
        hooks += more_hooks
        stack.callback(progress.stop)
        logs = stack.enter_context(tempfile.TemporaryDirectory(prefix="attnzoo-"))
        TrainingRunner(
            task.learner, task.network, loader, optimization, recipe, processes, hooks, make_loop, Path(logs)
        ).train()


def _loading(workers: int, processes: Processes) -> str:
    """Describes how images are loaded."""
    if not workers:
        return "none, images are loaded by the training process"
    said = f"{workers} data loading process{'es' if workers > 1 else ''}"
    said += " for each training process" if processes.count > 1 else ""
    have, wanted = cores(), workers * processes.on_this_machine
    return said if wanted <= have else f"{said}, but {have} cores: if training is slow, set workers={max(0, have - 1)}"


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


def seed_everything(seed: int) -> None:
    """Seeds the generators of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
