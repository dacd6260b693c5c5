"""How a step changes the weights: timm's optimizers and schedules, mixed precision, and what refuses a bad loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import OptimWrapper
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from timm.utils.clip_grad import dispatch_clip_grad
from torch import Tensor, nn

from .processes import Processes
from .recipe import Recipe

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class NonFiniteError(RuntimeError):
    """A loss or weight that is infinite or not a number. Nothing was learned from it.

    Attributes:
        is_here: this process has it; otherwise another has.
    """

    def __init__(self, message: str, is_here: bool = True) -> None:
        super().__init__(message)
        self.is_here = is_here


class Optimization(OptimWrapper):
    """mmengine's optimizer wrapper with autocast on any device, and a loss that is looked at before it is learned from.

    Args:
        optimizer: of the parameters.
        device: "cpu", "cuda" and so on.
        precision: of autocast; "float16" scales the loss, "float32" casts nothing.
        accumulate: parts of a step.
        clip_grad: how much a step's gradient is clipped to; None does not.
        clip_mode: what that is, a mode of `timm.utils.clip_grad.dispatch_clip_grad`.
        mean: of the loss over all processes, see `Processes.mean`.

    Attributes:
        loss: of the last part, the mean over all processes.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        device: str,
        precision: str = "float32",
        accumulate: int = 1,
        clip_grad: float | None = None,
        clip_mode: str = "norm",
        mean: Callable[[Tensor], Tensor] = lambda loss: loss,
    ) -> None:
        clip = None if clip_grad is None else {"value": clip_grad, "mode": clip_mode}
        super().__init__(optimizer, accumulative_counts=accumulate, clip_grad=clip)
        self.device, self.dtype = device, _AUTOCAST.get(precision)
        self.scaler = torch.amp.GradScaler(device, enabled=precision == "float16")
        self.mean, self.loss = mean, torch.tensor(torch.nan)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """One forward pass."""
        with super().optim_context(model), torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            yield

    def update_params(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
        """Adds the gradient of a part, and steps after the last part.

        Raises:
            NonFiniteError: the loss is infinite or not a number, on any process: raised on all of them.
        """
        # before the backward pass, in which processes wait for each other
        self.loss = self.mean(loss.detach())
        if not torch.isfinite(self.loss):
            raise NonFiniteError(f"the loss is {loss.item()}", is_here=not torch.isfinite(loss))
        super().update_params(loss, *arguments, **keywords)

    def backward(self, loss: Tensor, **keywords: Any) -> None:
        """The gradient of the scaled loss."""
        super().backward(self.scaler.scale(loss), **keywords)

    def step(self, **keywords: Any) -> None:
        """Changes the weights; with a scaled loss not where its gradient overflowed."""
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.scaler.step(self.optimizer, **keywords)
        self.scaler.update()

    def _clip_grad(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        dispatch_clip_grad(parameters, **self.clip_grad_kwargs)


def create_optimization(recipe: Recipe, model: nn.Module, processes: Processes) -> Optimization:
    """The optimizer of a recipe.

    Args:
        recipe: what to train and how.
        model: the timm model or the detector, whose `no_weight_decay()` and `group_matcher()` know its names.
        processes: that train together.

    Raises:
        ValueError: timm does not know the optimizer or its arguments.
    """
    optimizer = blaming("optimizer", create_optimizer_v2, model, **recipe.optimizer)
    device, mean = processes.device.type, processes.mean
    clip = recipe.clip_grad, recipe.clip_mode
    return Optimization(optimizer, device, recipe.precision, recipe.accumulate, *clip, mean)


def create_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> Scheduler | None:
    """The learning rate over time; None where the recipe asks for sched="none".

    Args:
        recipe: what to train and how.
        optimizer: whose rate it sets.
        steps: of an epoch.

    Raises:
        ValueError: timm does not know the schedule or its arguments, or it is longer or shorter than the training.
    """
    # a constant rate too is scaled per layer where the optimizer has layer decay
    settings = recipe.schedule or {"sched": "constant"}
    settings = {"step_on_epochs": False, "num_epochs": recipe.epochs, "updates_per_epoch": steps, **settings}
    scheduler, epochs = blaming("schedule", create_scheduler_v2, optimizer, **settings)
    if scheduler is not None and epochs != recipe.epochs:
        raise ValueError(f"schedule: with what precedes and follows it, it lasts {epochs} epochs, not {recipe.epochs}")
    return scheduler


def blaming(key: str, function: Callable[..., Any], *positional: Any, **options: Any) -> Any:
    """Calls a library with what the recipe says under `key`, and blames the recipe where it does not fit."""
    try:
        return function(*positional, **options)
    except (TypeError, ValueError, AssertionError, KeyError) as error:
        raise ValueError(f"{key}: {error}") from error


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Looks at the weights before they are stored.

    Raises:
        NonFiniteError: one is infinite or not a number; names it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{name} is not finite")
