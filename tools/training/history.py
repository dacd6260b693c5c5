"""The history of a training: best epoch, curves, and unreadable files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """The history of a run. It is part of every checkpoint, so a resumed run has the whole history.

    Attributes:
        metric: the metric that determines the best epoch; higher is better.
        best: metrics of the best epoch, and its number under "epoch"; None before the first validation.
        epochs: for every epoch its number under "epoch", the mean "loss", and its metrics if it was validated.
        steps: step, loss and learning rate at every `log_interval`-th step.
        unreadable: one message for each file that could not be read.
    """

    metric: str
    best: dict[str, float] | None = None
    epochs: list[dict[str, float]] = field(default_factory=list)
    steps: list[tuple[int, float, float]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def add_epoch(self, epoch: int, loss: float, metrics: Mapping[str, float]) -> bool:
        """Records an epoch and returns whether it is the best so far.

        Args:
            epoch: number of the epoch, counted from 1.
            loss: mean over the steps of the epoch.
            metrics: metrics of the validation; empty if the epoch was not validated.
        """
        self.epochs.append({"epoch": epoch, "loss": loss, **metrics})
        # of two equal epochs the later one: its learning rate is lower
        if not metrics or (self.best is not None and not metrics[self.metric] >= self.best[self.metric]):
            return False
        self.best = {"epoch": epoch, **metrics}
        return True

    def add_unreadable(self, messages: Iterable[str]) -> None:
        """Records files that could not be read."""
        known = set(self.unreadable)
        self.unreadable += [message for message in dict.fromkeys(messages) if message not in known]

    def waited(self) -> int:
        """Returns the number of epochs since the best one."""
        if not self.epochs or self.best is None:
            return 0
        return int(self.epochs[-1]["epoch"] - self.best["epoch"])

    def state(self) -> dict[str, Any]:
        """Returns the history as numbers and text."""
        return {
            "metric": self.metric,
            "best": self.best,
            "epochs": self.epochs,
            "steps": [list(point) for point in self.steps],
            "unreadable": self.unreadable,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Restores the history from a result of `state`.

        Raises:
            ValueError: a value is of another type.
        """
        best, epochs, steps, unreadable = (state[key] for key in ("best", "epochs", "steps", "unreadable"))
        if not all(isinstance(entries, list) for entries in (epochs, steps, unreadable)):
            raise ValueError("its history must consist of lists")
        for entry in (*epochs, *([] if best is None else [best])):
            if not isinstance(entry, dict) or type(entry.get("epoch")) is not int or not _are_numbers(entry.values()):
                raise ValueError(f"an epoch of its history must consist of numbers, got {entry!r}")
        if not all("loss" in entry for entry in epochs) or not (best is None or self.metric in best):
            raise ValueError(f"its history lacks the loss of an epoch, or the {self.metric} of the best one")
        if not all(isinstance(point, list) and len(point) == 3 and _are_numbers(point) for point in steps):
            raise ValueError("a step of its history must consist of three numbers")
        if not all(isinstance(message, str) for message in unreadable):
            raise ValueError("the messages in its history must be text")
        self.best, self.epochs, self.unreadable = best, list(epochs), list(unreadable)
        self.steps = [(int(step), loss, rate) for step, loss, rate in steps]


def _are_numbers(values: Iterable[Any]) -> bool:
    # integers are numbers of epochs and steps
    return all(type(value) is float or (type(value) is int and abs(value) < 2**63) for value in values)


@dataclass
class Mean:
    """A running mean."""

    total: float = 0.0
    count: int = 0

    def add(self, value: float) -> None:
        """Adds a value."""
        self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float:
        """The mean of the values; NaN if there are none."""
        return self.total / self.count if self.count else math.nan
