"""Optimization: timm's optimizers and schedules, mixed precision, and checks for values that are not finite."""

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

from ..files import without_function
from .keys import near_argument
from .processes import Processes
from .recipe import Recipe

_AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class NonFiniteError(RuntimeError):
    """A loss or weight is infinite or NaN. It is raised before the loss is used or the weights are stored.

    Attributes:
        is_here: whether the value occurred on this process, not on another.
    """

    def __init__(self, message: str, is_here: bool = True) -> None:
        super().__init__(message)
        self.is_here = is_here


class Optimization(OptimWrapper):
    """mmengine's optimizer wrapper with autocast on any device, which checks the loss before the backward pass.

    Args:
        optimizer: the optimizer.
        device: device type, such as "cpu" or "cuda".
        precision: dtype of autocast. "float16" scales the loss, "float32" disables autocast.
        accumulate: number of batches whose gradients are accumulated in a step.
        clip_grad: limit of the gradient; None for no clipping.
        clip_mode: mode of `timm.utils.clip_grad.dispatch_clip_grad`.
        mean: averages the loss over all processes, see `Processes.mean`.

    Attributes:
        loss: loss of the last batch, averaged over all processes.
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
        """The context of a forward pass."""
        with super().optim_context(model), torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
            yield

    def update_params(self, loss: Tensor, *arguments: Any, **keywords: Any) -> None:
        """Accumulates the gradient of a batch; after the last batch of a step, updates the weights.

        Raises:
            NonFiniteError: the loss is infinite or NaN on any process. It is raised on all processes.
        """
        # before the backward pass, which synchronizes the processes
        self.loss = self.mean(loss.detach())
        if not torch.isfinite(self.loss):
            raise NonFiniteError(f"the loss is {loss.item()}", is_here=not torch.isfinite(loss))
        super().update_params(loss, *arguments, **keywords)

    def backward(self, loss: Tensor, **keywords: Any) -> None:
        """Runs the backward pass of the scaled loss."""
        super().backward(self.scaler.scale(loss), **keywords)

    def step(self, **keywords: Any) -> None:
        """Clips the gradient and updates the weights; the update is skipped if a scaled gradient overflowed."""
        if self.clip_grad_kwargs:
            self.scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.scaler.step(self.optimizer, **keywords)
        self.scaler.update()

    def _clip_grad(self) -> None:
        parameters = [p for group in self.optimizer.param_groups for p in group["params"] if p.grad is not None]
        dispatch_clip_grad(parameters, **self.clip_grad_kwargs)


def create_optimization(recipe: Recipe, model: nn.Module, processes: Processes) -> Optimization:
    """Creates the optimizer of a recipe.

    Args:
        recipe: the recipe.
        model: the timm model or the detector, with `no_weight_decay()` and `group_matcher()`.
        processes: the processes of the training.

    Raises:
        ValueError: timm does not know the optimizer or its arguments.
    """
    optimizer = blaming("optimizer", create_optimizer_v2, model, **recipe.optimizer)
    device, mean = processes.device.type, processes.mean
    clip = recipe.clip_grad, recipe.clip_mode
    return Optimization(optimizer, device, recipe.precision, recipe.accumulate, *clip, mean)


def create_schedule(recipe: Recipe, optimizer: torch.optim.Optimizer, steps: int) -> Scheduler | None:
    """Creates the learning rate schedule of a recipe; None for sched="none".

    Args:
        recipe: the recipe.
        optimizer: the optimizer whose learning rate is scheduled.
        steps: optimizer steps per epoch.

    Raises:
        ValueError: timm does not know the schedule or its arguments, or its length differs from that of the training.
    """
    # with layer decay, a constant rate also has to be scaled per layer
    settings = recipe.schedule or {"sched": "constant"}
    settings = {"step_on_epochs": False, "num_epochs": recipe.epochs, "updates_per_epoch": steps, **settings}
    scheduler, epochs = blaming("schedule", create_scheduler_v2, optimizer, **settings)
    if scheduler is not None and epochs != recipe.epochs:
        raise ValueError(f"schedule: with warmup and cooldown it must last {recipe.epochs} epochs, got {epochs}")
    return scheduler


def blaming(key: str, function: Callable[..., Any], *positional: Any, **options: Any) -> Any:
    """Calls a library function with the options of a recipe key; the key is prepended to its errors."""
    try:
        return function(*positional, **options)
    except (TypeError, ValueError, AssertionError, KeyError, AttributeError) as error:
        raise ValueError(f"{key}: {without_function(error)}{near_argument(error)}") from error


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Checks the weights before they are stored.

    Raises:
        NonFiniteError: a weight is infinite or NaN; the message names it.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise NonFiniteError(f"{name} is not finite")
