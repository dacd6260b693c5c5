"""Storing and resuming a run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from torch import Tensor

from .history import Mean
from .loop import TrainingError
from .optimization import NonFiniteError, check_finite
from .randomness import random_state, set_random_state
from .runner import TrainingRunner
from .sharding import load_optimizer, load_weights, whole
from .storage import BEST, LAST, OPTIMIZER, link, save_checkpoint

# incremented when checkpoints of earlier versions cannot be resumed
FORMAT = 2


class Checkpoints(Hook):
    """Stores the run every `save_interval` steps, after each epoch, and when a signal stops it.

    A checkpoint contains only tensors, numbers and text: weights, their average, the states of optimizer, schedule and
    loss scale, the position in the data, the random states of all processes, the history, and the recipe as JSON. Rank
    0 writes it. mmengine's own hook pickles its history classes, writes in place, does not store random states, and
    stores the config as Python code that is executed on resume.

    Args:
        work_dir: directory of the checkpoints.
        save_model: writes the validated model, given its weights; called by rank 0 for each epoch that is the best so
            far.
        resume_from: the checkpoint to resume from; None starts from scratch.
        data: description of the data, which is stored.
    """

    priority = "VERY_LOW"

    def __init__(
        self,
        work_dir: Path,
        save_model: Callable[[Mapping[str, Tensor]], None],
        resume_from: Mapping[str, Any] | None,
        data: Mapping[str, Any],
    ) -> None:
        self.work_dir, self.save_model, self._resume_from, self.data = work_dir, save_model, resume_from, data

    def before_train(self, runner: TrainingRunner) -> None:
        """Restores the state of the checkpoint, if there is one."""
        loop = runner.train_loop
        loop.store = lambda: self._save(runner)
        state, self._resume_from = self._resume_from, None
        if state is None:
            return
        with runner.train_loop.processes.stopping_together():
            try:
                self._restore(runner, state)
            # a malformed checkpoint may raise any of these
            except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
                reason = " ".join((str(error) if str(error) else type(error).__name__).split())
                last = self.work_dir / LAST
                raise ValueError(f"{last} does not match the run: {reason}") from error

    def _restore(self, runner: TrainingRunner, state: Mapping[str, Any]) -> None:
        loop = runner.train_loop
        load_weights(runner.network, state["state_dict"])
        if loop.ema is not None:
            loop.ema.module.load_state_dict(state["state_dict_ema"])
        load_optimizer(runner.optim_wrapper.optimizer, state[OPTIMIZER])
        runner.optim_wrapper.scaler.load_state_dict(state["scaler"])
        # images may have been added or removed
        steps = state.get("steps_per_epoch", loop.steps_per_epoch)
        batch = state["step"] - state["epoch"] * steps
        if not 0 <= batch <= steps:
            raise ValueError(f"there is no step {state['step']} in epoch {state['epoch'] + 1}")
        batch = loop.steps_per_epoch if batch == steps else min(batch, loop.steps_per_epoch)
        loop.history.restore(state["record"])
        loop.resume(state["epoch"], state["epoch"] * loop.steps_per_epoch + batch, Mean(*state["mean"]))
        if loop.scheduler is not None:
            if state["schedule"].keys() != loop.scheduler.state_dict().keys():
                raise ValueError("it contains the state of another schedule")
            if (steps, json.loads(state["recipe"])["epochs"]) == (loop.steps_per_epoch, loop.max_epochs):
                loop.scheduler.load_state_dict(state["schedule"])
            else:
                # a schedule of another length is at another point
                loop.scheduler.step(loop.epoch)
                loop.scheduler.step_update(loop.step)
        runner.optim_wrapper.initialize_count_status(runner.model, loop.iter, loop.max_iters)
        processes = loop.processes
        # with another number of processes the stored random states cannot be assigned
        if len(state["random"]) == processes.count:
            set_random_state(state["random"][processes.rank])

    def after_train_iter(self, runner: TrainingRunner, batch_idx: int, **_: Any) -> None:
        """Stores the run every `save_interval` steps."""
        loop = runner.train_loop
        interval = loop.recipe.save_interval
        if interval and loop.iter % loop.recipe.accumulate == 0 and loop.step % interval == 0:
            self._save(runner)

    def after_epoch(self, runner: TrainingRunner, metrics: Mapping[str, float], improved: bool) -> None:
        """Stores the model if it is the best so far, and then `last`, which must not precede the model."""
        state, processes = self._state(runner), runner.train_loop.processes
        last = self.work_dir / LAST
        with processes.stopping_together():
            if processes.rank == 0 and improved:
                self.save_model(state["state_dict_ema" if "state_dict_ema" in state else "state_dict"])
                self._save_best(state, runner.train_loop.recipe.resumable_best)
            elif processes.rank == 0:
                save_checkpoint(state, last)

    def _save_best(self, state: Mapping[str, Any], is_resumable: bool) -> None:
        best, last = self.work_dir / BEST, self.work_dir / LAST
        if is_resumable:
            save_checkpoint(state, best)
            link(best, last)
        else:
            save_checkpoint({key: value for key, value in state.items() if key != OPTIMIZER}, best)
            save_checkpoint(state, last)

    def _save(self, runner: TrainingRunner) -> None:
        state, processes = self._state(runner), runner.train_loop.processes
        # a full disk ends all processes, and no process continues before the run is stored
        with processes.stopping_together():
            if processes.rank == 0:
                save_checkpoint(state, self.work_dir / LAST)

    def _state(self, runner: TrainingRunner) -> dict[str, Any]:
        loop, wrapper, processes = runner.train_loop, runner.optim_wrapper, runner.train_loop.processes
        keep = processes.rank == 0
        weights = whole(runner.network.state_dict(), keep)
        with processes.stopping_together():
            try:
                check_finite(weights)
            except NonFiniteError as error:
                raise TrainingError(f"after step {loop.step}: {error}; the previous checkpoint is intact") from error
        for messages in processes.gather(loop.history.unreadable):
            loop.history.add_unreadable(messages)
        return {
            "format": FORMAT,
            "recipe": loop.recipe.to_json(),
            "epoch": loop.epoch,
            "step": loop.step,
            "steps_per_epoch": loop.steps_per_epoch,
            "data": self.data,
            "mean": [loop.mean.total, loop.mean.count],
            "state_dict": weights,
            **({} if loop.ema is None else {"state_dict_ema": loop.ema.module.state_dict()}),
            OPTIMIZER: whole(wrapper.optimizer.state_dict(), keep),
            "scaler": wrapper.scaler.state_dict(),
            "schedule": None if loop.scheduler is None else loop.scheduler.state_dict(),
            "record": loop.history.state(),
            "random": processes.gather(random_state()),
        }


def check_format(checkpoint: Mapping[str, Any], path: Path) -> None:
    """Checks the format of a checkpoint from which a run is resumed.

    Raises:
        ValueError: it was written by another version of attnzoo, or has no state of the optimizer.
    """
    if checkpoint.get("format") != FORMAT:
        raise ValueError(
            f"{path} was written by another version of attnzoo (expected format {FORMAT}, got "
            f"{checkpoint.get('format')}): the run cannot be resumed, but the weights can be used"
        )
    if OPTIMIZER not in checkpoint:
        raise ValueError(
            f"{path} has no state of the optimizer, as the {BEST} of a run without resumable_best=True: the run cannot "
            "be resumed, but the weights can be used"
        )
