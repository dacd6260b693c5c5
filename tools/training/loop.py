"""The training loop. It calls mmengine's hooks, but can resume at any step.

mmengine's own loops can resume only at the start of an epoch. Here the position is the number of batches done. The
order and augmentation of the data follow from it and the seed (`attnzoo.tools.data`), so a run that was stopped
anywhere continues with the next batch.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from mmengine.runner import BaseLoop, Runner
from timm.scheduler.scheduler import Scheduler
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

from ..data import TrainBatches, TrainStream, WorkerError, explaining_workers
from ..files import listed
from ..images import with_remedy
from .history import History, Mean
from .optimization import NonFiniteError
from .processes import Processes
from .recipe import Recipe
from .speed import Speed


class TrainingError(RuntimeError):
    """The training cannot continue. The message says where it stopped, why, and what is stored."""


class InterruptedTraining(Exception):  # noqa: N818  nothing went wrong
    """The training was stopped by a signal and is stored.

    Attributes:
        signal: the signal.
    """

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message)
        self.signal = received


class Interruption:
    """Records SIGTERM (preemption) and SIGINT (Ctrl-C).

    The first signal stops the run at the end of the step; a second one has its usual effect immediately. Under torchrun
    the second one also waits: a scheduler signals torchrun and its processes, and torchrun forwards the signal to them.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Records signals within the context; this works in the main thread only."""
        usual: dict[signal.Signals, Any] = {}

        def note(number: int, frame: Any) -> None:
            self.received = signal.Signals(number)
            if "TORCHELASTIC_RUN_ID" not in os.environ:
                signal.signal(number, usual[self.received])

        try:
            for entry in self.SIGNALS:
                usual[entry] = signal.signal(entry, note)
        except ValueError:
            # not the main thread
            usual.clear()
        try:
            yield
        finally:
            for entry, handler in usual.items():
                signal.signal(entry, handler)


class TrainLoop(BaseLoop):
    """Runs epochs of optimizer steps; a step accumulates one or more batches of the data loader.

    Args:
        runner: provides the model, optimizer and hooks.
        dataloader: the training data.
        batches: the position of the data loader: has `start(epoch, batch)`, `steps` per epoch and `batch_size`.
        recipe: the recipe.
        processes: the processes of the training.
        history: records the training.
        ema: average of the weights, updated after each step; None for no average.
        scheduler: learning rate schedule; None for a fixed learning rate.
        val_loader: the validation data.
        validate: returns the metrics of the current model; it is given a function to call after every batch.
        common_val_batches: number of validation batches that every process has.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader[Any],
        batches: TrainBatches | TrainStream,
        recipe: Recipe,
        processes: Processes,
        history: History,
        ema: ModelEmaV3 | None,
        scheduler: Scheduler | None,
        val_loader: DataLoader[Any],
        validate: Callable[[Callable[[list[str]], None]], dict[str, float]],
        common_val_batches: int,
    ) -> None:
        super().__init__(runner, dataloader)
        self.recipe, self.processes, self.history, self.ema = recipe, processes, history, ema
        self.scheduler, self.val_loader, self.validate = scheduler, val_loader, validate
        self.common_val_batches = common_val_batches
        self.batches = batches
        self.steps_per_epoch: int = self.batches.steps
        self.batches_per_epoch = self.steps_per_epoch * recipe.accumulate
        self.max_epochs, self.max_iters = recipe.epochs, recipe.epochs * self.batches_per_epoch
        self.epoch = self.iter = 0
        self.interruption, self.mean, self.speed = Interruption(), Mean(), Speed(processes.device)
        # set by the hook that stores the run: called before an interrupted run ends
        self.store: Callable[[], None] = lambda: None

    @property
    def max_steps(self) -> int:
        """Number of optimizer steps of the whole training."""
        return self.max_epochs * self.steps_per_epoch

    @property
    def step(self) -> int:
        """Number of optimizer steps done."""
        return self.iter // self.recipe.accumulate

    def resume(self, epoch: int, step: int, mean: Mean) -> None:
        """Continues after `step` optimizer steps, which are in or at the end of `epoch` (counted from 0).

        Raises:
            ValueError: the epoch does not contain this step, or the training is shorter.
        """
        first = epoch * self.steps_per_epoch
        if not (0 <= epoch <= self.max_epochs and first <= step <= min(first + self.steps_per_epoch, self.max_steps)):
            raise ValueError(f"there is no step {step} in epoch {epoch + 1} of {self.max_epochs}")
        self.epoch, self.iter, self.mean = epoch, step * self.recipe.accumulate, mean

    def run(self) -> nn.Module:
        """Trains to the end.

        Raises:
            TrainingError: the loss or a weight is not finite, or a file cannot be read and `unreadable` is "stop"; the
                files of the validation are also read before the first epoch.
            InterruptedTraining: a signal stopped the training.
        """
        self.runner.call_hook("before_train")
        try:
            with self.interruption.watch(), explaining_workers():
                if self.iter == 0 and self.recipe.unreadable == "stop":
                    self._read_val()
                while self.epoch < self.max_epochs and not self._is_early():
                    self._run_epoch()
        except WorkerError as error:
            raise TrainingError(f"{error}. {self._kept()}") from error
        self.runner.call_hook("after_train")
        return self.runner.model

    def _is_early(self) -> bool:
        return bool(self.recipe.early_stop) and self.history.waited() >= self.recipe.early_stop

    def _run_epoch(self) -> None:
        first = self.iter - self.epoch * self.batches_per_epoch
        if first == 0:
            self.mean = Mean()
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.batches.start(self.epoch, first)
        self.speed.start()
        for index, batch in enumerate(self.dataloader, first):
            self._run_batch(index, batch)
        is_validated = (self.epoch + 1) % self.recipe.val_interval == 0 or self.epoch + 1 == self.max_epochs
        if is_validated:
            # an error of the validation costs no epoch
            self.store()
        metrics = self._validate() if is_validated else {}
        self.epoch += 1
        if self.scheduler is not None:
            self.scheduler.step(self.epoch)
        improved = self.history.add_epoch(self.epoch, self.mean.value, metrics)
        self.runner.call_hook("after_epoch", metrics=metrics, improved=improved)

    def _validate(self) -> dict[str, float]:
        with self._after_val_batches() as after_batch:
            return self.validate(after_batch)

    def _read_val(self) -> None:
        """Reads the validation data, so that a file that cannot be read is reported before the first epoch."""
        with self._after_val_batches() as after_batch:
            for batch in self.val_loader:
                after_batch(batch["unreadable"])

    @contextmanager
    def _after_val_batches(self) -> Iterator[Callable[[list[str]], None]]:
        batches = itertools.count()
        untold: list[str] = []

        def after_batch(unreadable: list[str]) -> None:
            untold.extend(unreadable)
            # collective operations: not for a batch that only some processes have
            if next(batches) < self.common_val_batches:
                self._note_unreadable(untold)
                untold.clear()
                self._leave_if_asked()

        yield after_batch
        self._note_unreadable(untold)

    def _run_batch(self, index: int, batch: dict[str, Any]) -> None:
        names, unreadable = batch.pop("name", []), batch.pop("unreadable")
        self._note_unreadable(unreadable)
        if not names:
            raise TrainingError(f"no image of a batch can be read; the first: {unreadable[0]}. {self._kept()}")
        self.runner.call_hook("before_train_iter", batch_idx=index, data_batch=batch)
        try:
            outputs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        except NonFiniteError as error:
            self.processes.stop_if(TrainingError(self._why_not_finite(str(error), names)) if error.is_here else None)
            raise
        # the mean over all processes, so that the history does not depend on their number
        outputs["loss"] = self.runner.optim_wrapper.loss
        self.mean.add(outputs["loss"].item())
        self.speed.add(self.batches.batch_size // self.recipe.accumulate)
        self.iter += 1
        if self.iter % self.recipe.accumulate == 0:
            if self.ema is not None:
                self.ema.update(self.runner.network, step=self.step)
            if self.scheduler is not None:
                self.scheduler.step_update(self.step)
        self.runner.call_hook("after_train_iter", batch_idx=index, data_batch=batch, outputs=outputs)
        if self.iter % self.recipe.accumulate == 0:
            self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if not self.processes.any(self.interruption.received is not None):
            return
        self.store()
        received = self.interruption.received or signal.SIGTERM
        stopped = InterruptedTraining(
            f"stopped by {received.name} after step {self.step} of {self.max_steps}; the run is stored",
            received,
        )
        self.processes.stop(stopped)

    def _note_unreadable(self, messages: Sequence[str]) -> None:
        if self.recipe.unreadable == "stop":
            self.processes.stop_if(TrainingError(self._why_unreadable(messages[0])) if messages else None)
        self.history.add_unreadable(messages)

    def _why_unreadable(self, message: str) -> str:
        said = with_remedy(message, "remove the file, or set unreadable=skip to skip such files")
        return f"{said}. {self._kept()}"

    def _why_not_finite(self, what: str, names: Sequence[str]) -> str:
        return (
            f"step {self.step + 1} (epoch {self.epoch + 1}): {what}. Images of the batch: {listed(names)}. "
            f"Try a lower optimizer.lr, clip_grad=1.0 or precision=float32. {self._kept()}"
        )

    def _kept(self) -> str:
        if self.iter == 0:
            return "No step has been done"
        return "The last checkpoint is intact: continue from it with --resume"
