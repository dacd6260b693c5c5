"""What runs beside the steps of a training: checkpoints that can be trusted, and a word to the user."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich import progress
from rich.console import Console

from .recipe import Recipe
from .storage import BEST, LAST, MODEL, save_checkpoint, save_model

# Where nobody watches a bar, an epoch of an hour still says that it moves
SECONDS_BETWEEN_LINES = 30.0


class Checkpoints(Hook):
    """After each validation: the model when it is the best so far, and the state from which the run continues.

    Both files are plain tensors, numbers and text, readable with weights_only=True. mmengine's own hook pickles its
    history classes, writes in place and names the last checkpoint by an absolute path.

    Args:
        recipe: what is trained.
        work_dir: where it is stored.
        classes: label names.
    """

    priority = "VERY_LOW"

    def __init__(self, recipe: Recipe, work_dir: Path, classes: Sequence[str]) -> None:
        self.recipe, self.work_dir, self.classes = recipe, work_dir, classes
        self.best: tuple[float, int] | None = None
        self._random: Mapping[str, Any] | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict[str, Any]) -> None:
        """Takes up the state of the run that wrote the checkpoint."""
        # mmengine would execute this entry as Python
        checkpoint["meta"].pop("config", None)
        run = checkpoint["run"]
        self.best = run["best"]["accuracy"], run["best"]["epoch"]
        self._random = run["random"]

    def before_train(self, runner: Runner) -> None:
        """Continues the random numbers where the checkpoint left them."""
        if self._random is not None:
            _set_random_state(self._random)

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """Stores what the epoch brought; the state last, so that it never knows of a model that is not there."""
        accuracy = (metrics or {})["accuracy"]
        # of equals the later: the learning rate has come further down
        improved = self.best is None or accuracy >= self.best[0]
        if improved:
            self.best = accuracy, runner.epoch
        checkpoint = self._checkpoint(runner)
        if improved:
            arguments = {key: value for key, value in self.recipe.model.items() if key != "name"}
            save_model(runner.model.model, self.work_dir / MODEL, arguments, self.recipe.data, self.classes)
            save_checkpoint(checkpoint, self.work_dir / BEST)
        save_checkpoint(checkpoint, self.work_dir / LAST)

    def _checkpoint(self, runner: Runner) -> dict[str, Any]:
        assert self.best is not None
        return {
            # what mmengine's resume reads; its message hub holds only what TensorBoard has
            "meta": {"epoch": runner.epoch, "iter": runner.iter, "seed": self.recipe.seed},
            "state_dict": runner.model.state_dict(),
            "optimizer": runner.optim_wrapper.state_dict(),
            # without the functions that schedulers keep: a new one has them
            "param_schedulers": [
                {key: value for key, value in scheduler.state_dict().items() if not callable(value)}
                for scheduler in runner.param_schedulers or []
            ],
            "message_hub": {"log_scalars": {}, "runtime_info": {}, "resumed_keys": {}},
            "run": {
                "recipe": self.recipe.to_json(),
                "best": {"accuracy": self.best[0], "epoch": self.best[1]},
                "random": _random_state(),
            },
        }


def _random_state() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    # a checkpoint is loaded to the device of the model, random states live on the CPU
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([entry.cpu() for entry in state["cuda"]])


class Progress(Hook):
    """A summary before, a line per epoch, a bar where there is a terminal.

    Args:
        recipe: what is trained.
        checkpoints: knows the best epoch.
    """

    priority = "LOW"

    def __init__(self, recipe: Recipe, checkpoints: Checkpoints) -> None:
        self.recipe, self.checkpoints = recipe, checkpoints
        self.console = Console(highlight=False, soft_wrap=True)
        self.bar = progress.Progress(
            progress.TextColumn("epoch {task.fields[epoch]}"),
            progress.BarColumn(),
            progress.TextColumn("loss {task.fields[loss]:.3f}  left"),
            progress.TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self.last: float | None = None

    def before_train(self, runner: Runner) -> None:
        """Says what is about to happen."""
        model, train_set = runner.model.model, runner.train_dataloader.dataset
        parameters = sum(p.numel() for p in model.parameters())
        size = " x ".join(map(str, self.recipe.data.get("input_size", (3, 224, 224))))
        device = next(model.parameters()).device
        steps = len(runner.train_dataloader)
        schedule = ", ".join(entry["type"] for entry in self.recipe.schedule) or "constant rate"
        lines = {
            "model": f"{self.recipe.model['name']}, {parameters / 1e6:.2f} M parameters, input {size}",
            "data": f"{self.recipe.data['name']}, {len(train_set)} images to train, "
            f"{len(runner.val_dataloader.dataset)} held out, {len(train_set.classes)} classes",
            "schedule": f"{runner.max_epochs} epochs of {steps} steps, batch {self.recipe.batch_size}, "
            f"{self.recipe.optimizer.get('opt', 'sgd')} {self.recipe.optimizer.get('lr')}, {schedule}",
            "runs on": f"{device}, {self.recipe.precision}"
            + (f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""),
            "stored in": _short(self.checkpoints.work_dir),
        }
        for key, value in lines.items():
            self._print(f"{key:<10}{value}")
        if runner.epoch:
            self._print(f"resumed after epoch {runner.epoch}")
        self._started, self._first_step = time.monotonic(), runner.iter
        self._spoken = self._started
        self._losses: list[float] = []
        self.bar.start()
        self._task = self.bar.add_task("", total=runner.max_iters, completed=runner.iter, epoch=runner.epoch, loss=0.0)

    def before_train_epoch(self, runner: Runner) -> None:
        """Starts the mean of the loss afresh."""
        self._losses = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        """Moves the bar, or speaks up after a long silence."""
        self._losses.append((outputs or {})["loss"].item())
        loss = sum(self._losses) / len(self._losses)
        self.bar.update(self._task, advance=1, epoch=runner.epoch + 1, loss=loss)
        if not self.console.is_terminal and time.monotonic() - self._spoken > SECONDS_BETWEEN_LINES:
            steps = f"step {batch_idx + 1}/{len(runner.train_dataloader)}"
            self._say(runner, runner.epoch + 1, runner.iter + 1, f"loss {loss:.3f}  {steps}")

    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        """One line for the epoch."""
        self.last = (metrics or {})["accuracy"]
        loss = sum(self._losses) / max(1, len(self._losses))
        self._say(runner, runner.epoch, runner.iter, f"loss {loss:.3f}  accuracy {self.last:.2%}")

    def after_train(self, runner: Runner) -> None:
        """Says what came out and where it is."""
        self.bar.stop()
        if self.checkpoints.best is None:
            return
        accuracy, epoch = self.checkpoints.best
        last = "" if self.last is None else f", last {self.last:.2%}"
        self._print(f"accuracy {accuracy:.2%} after epoch {epoch}{last}")
        self._print(f"model in {_short(self.checkpoints.work_dir / MODEL)}")

    def _say(self, runner: Runner, epoch: int, step: int, what: str) -> None:
        self._spoken = time.monotonic()
        spent = self._spoken - self._started
        left = spent / max(1, step - self._first_step) * (runner.max_iters - step)
        times = f"{timedelta(seconds=round(spent))} spent, {timedelta(seconds=round(left))} left"
        self._print(f"epoch {epoch:>{len(str(runner.max_epochs))}}/{runner.max_epochs}  {what}  {times}")

    def _print(self, line: str) -> None:
        self.console.print(line, markup=False)


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
