"""The history of a training: its best epoch, its curves, and the files that it could not read."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """Part of every checkpoint, so a resumed run tells the whole story.

    Attributes:
        metric: the metric that says which epoch is best; more is better.
        best: metrics of the best epoch, and its number under "epoch"; None before the first validation.
        epochs: of every epoch its number under "epoch", the mean "loss", and its metrics if it was validated.
        steps: every so many steps the step, the loss and the learning rate.
        unreadable: what was wrong with which files, each once.
    """

    metric: str
    best: dict[str, float] | None = None
    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: list[tuple[int, float, float]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add_epoch(self, epoch: int, loss: float, metrics: Mapping[str, float]) -> bool:
        """Notes an epoch; whether it is the best so far.

        Args:
            epoch: counted from 1.
            loss: mean over its steps.
            metrics: empty where it was not validated.
        """
        self.epochs.append({"epoch": epoch, "loss": loss, **metrics})
        # of equals the later: the learning rate has come further down
        if not metrics or (self.best is not None and not metrics[self.metric] >= self.best[self.metric]):
            return False
        self.best = {"epoch": epoch, **metrics}
        return True

    def add_unreadable(self, messages: Iterable[str]) -> None:
        """Notes files that could not be read."""
        known = set(self.unreadable)
        self.unreadable += [message for message in dict.fromkeys(messages) if message not in known]

    def waited(self) -> int:
        """Epochs since the best one."""
        if not self.epochs or self.best is None:
            return 0
        return int(self.epochs[-1]["epoch"] - self.best["epoch"])

    def state(self) -> dict[str, Any]:
        """Plain numbers and text."""
        return {
            "metric": self.metric,
            "best": self.best,
            "epochs": self.epochs,
            "steps": [list(point) for point in self.steps],
            "unreadable": self.unreadable,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes up what `state` gave."""
        self.best, self.epochs, self.unreadable = state["best"], list(state["epochs"]), list(state["unreadable"])
        self.steps = [(int(step), loss, rate) for step, loss, rate in state["steps"]]


@dataclass
class Mean:
    """The mean of numbers as they come."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """One more number."""
        self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float:
        """The mean so far; not a number before the first."""
        return self.total / self.count if self.count else math.nan
