"""The training loop: mmengine's hooks at the usual moments, but a position that is exact to the step.

mmengine's own loops resume at the start of an epoch at best. Here the position is the number of batches done; order
and augmentation of the data follow from it and the seed (`attnzoo.tools.data`), so a run that was stopped anywhere
continues with the very next batch.
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

from ..data import TrainBatches, TrainStream
from ..files import listed
from .history import History, Mean
from .optimization import NonFiniteError
from .processes import Processes
from .recipe import Recipe


class TrainingError(RuntimeError):
    """A training that cannot go on. The message says where it stopped, why, and what is kept."""


class InterruptedTraining(Exception):  # noqa: N818  nothing went wrong
    """A training that was asked to stop, and is stored.

    Attributes:
        signal: that asked.
    """

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message)
        self.signal = received


class Interruption:
    """Whether the process was asked to stop, by SIGTERM (preemption) or SIGINT (Ctrl-C).

    The first signal waits for the end of the step; a second one has its usual effect at once. Under torchrun it waits
    too: a scheduler signals torchrun and its processes, and torchrun passes it on to them once more.
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.received: signal.Signals | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Listens meanwhile; signals can be heard in the main thread only."""
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
    """Epochs of steps of parts; each part is a batch of the data loader.

    Args:
        runner: whose model, optimizer and hooks are used.
        dataloader: of the training.
        batches: where the data loader is: has `start(epoch, batch)`, and the `steps` and `batch_size` of an epoch.
        recipe: what to train and how.
        processes: that train together.
        history: what is noted down.
        ema: average of the weights, updated after each step; None without.
        scheduler: of the learning rate; None for the optimizer's own.
        validate: gives the metrics of the model as it is; called between two epochs with what to call after every
            batch.
        common_val_batches: batches of the validation that every process has.
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
        validate: Callable[[Callable[[list[str]], None]], dict[str, float]],
        common_val_batches: int,
    ) -> None:
        super().__init__(runner, dataloader)
        self.recipe, self.processes, self.history, self.ema = recipe, processes, history, ema
        self.scheduler, self.validate, self.common_val_batches = scheduler, validate, common_val_batches
        self.batches = batches
        self.steps_per_epoch: int = self.batches.steps
        self.batches_per_epoch = self.steps_per_epoch * recipe.accumulate
        self.max_epochs, self.max_iters = recipe.epochs, recipe.epochs * self.batches_per_epoch
        self.epoch = self.iter = 0
        self.interruption, self.mean = Interruption(), Mean()
        # set by who can store the run: called before it is left
        self.store: Callable[[], None] = lambda: None

    @property
    def max_steps(self) -> int:
        """Optimizer steps of the whole training."""
        return self.max_epochs * self.steps_per_epoch

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.iter // self.recipe.accumulate

    def resume(self, epoch: int, step: int, mean: Mean) -> None:
        """Continues after `step` optimizer steps, which lie in or just after `epoch` (counted from 0).

        Raises:
            ValueError: they do not, or there are not so many.
        """
        first = epoch * self.steps_per_epoch
        if not (0 <= epoch <= self.max_epochs and first <= step <= min(first + self.steps_per_epoch, self.max_steps)):
            raise ValueError(f"there is no step {step} in epoch {epoch + 1} of {self.max_epochs}")
        self.epoch, self.iter, self.mean = epoch, step * self.recipe.accumulate, mean

    def run(self) -> nn.Module:
        """Trains to the end.

        Raises:
            TrainingError: the loss or a weight is not finite, or a file cannot be read and the recipe stops there.
            InterruptedTraining: a signal asked for it.
        """
        self.runner.call_hook("before_train")
        with self.interruption.watch():
            while self.epoch < self.max_epochs and not self._is_early():
                self._run_epoch()
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
        for index, batch in enumerate(self.dataloader, first):
            self._run_batch(index, batch)
        is_validated = (self.epoch + 1) % self.recipe.val_interval == 0 or self.epoch + 1 == self.max_epochs
        metrics = self._validate() if is_validated else {}
        self.epoch += 1
        if self.scheduler is not None:
            self.scheduler.step(self.epoch)
        improved = self.history.add_epoch(self.epoch, self.mean.value, metrics)
        self.runner.call_hook("after_epoch", metrics=metrics, improved=improved)

    def _validate(self) -> dict[str, float]:
        batches = itertools.count()

        untold: list[str] = []

        def after_batch(unreadable: list[str]) -> None:
            untold.extend(unreadable)
            # asking is a conversation of all processes: one that has a batch more must not ask alone
            if next(batches) < self.common_val_batches:
                self._note_unreadable(untold)
                untold.clear()
                self._leave_if_asked()

        metrics = self.validate(after_batch)
        self._note_unreadable(untold)
        return metrics

    def _run_batch(self, index: int, batch: dict[str, Any]) -> None:
        names, unreadable = batch.pop("name", []), batch.pop("unreadable")
        self._note_unreadable(unreadable)
        if not names:
            raise TrainingError(f"no picture of a batch can be read; the first: {unreadable[0]}. {self._kept()}")
        self.runner.call_hook("before_train_iter", batch_idx=index, data_batch=batch)
        try:
            outputs = self.runner.model.train_step(batch, optim_wrapper=self.runner.optim_wrapper)
        except NonFiniteError as error:
            self.processes.stop_if(TrainingError(self._why_not_finite(str(error), names)) if error.is_here else None)
            raise
        # the mean over all processes: what is noted does not depend on their number
        outputs["loss"] = self.runner.optim_wrapper.loss
        self.mean.add(outputs["loss"].item())
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
            f"stopped by {received.name} after step {self.step} of {self.max_steps}; the run "
            "is stored, continue it with --resume",
            received,
        )
        self.processes.stop(stopped)

    def _note_unreadable(self, messages: Sequence[str]) -> None:
        if self.recipe.unreadable == "stop":
            self.processes.stop_if(TrainingError(self._why_unreadable(messages[0])) if messages else None)
        self.history.add_unreadable(messages)

    def _why_unreadable(self, message: str) -> str:
        return f"{message}; remove the file, or set unreadable=skip to go on without such files. {self._kept()}"

    def _why_not_finite(self, what: str, names: Sequence[str]) -> str:
        return (
            f"step {self.step + 1} (epoch {self.epoch + 1}): {what}. Its images: {listed(names)}. "
            f"A lower optimizer.lr, clip_grad=1.0 or precision=float32 may help. {self._kept()}"
        )

    def _kept(self) -> str:
        return "What was stored before is intact: --resume continues from there"
