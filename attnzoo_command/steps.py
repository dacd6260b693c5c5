"""What a command is doing, in a line on stderr where it takes seconds; functions that programs call say nothing."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

# a step that takes more seconds is said
PATIENCE = 2.0

# seconds between the lines of a count: after each line twice as many, up to the second
_FIRST_WAIT, _LONGEST_WAIT = 3.0, 30.0

_IMPORTING = "importing torch and the models"


class _Watch:
    """The step of the command that runs in this process."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        # before the first step
        self.begin(_IMPORTING)

    def begin(self, text: str) -> None:
        self.text, self.since, self.is_said = text, time.monotonic(), False

    def run(self) -> None:
        while not self.ended.wait(PATIENCE / 8):
            is_over = not self.text or self.is_said or (self.text == _IMPORTING and _is_imported())
            if not is_over and time.monotonic() - self.since > PATIENCE:
                self.is_said = True
                click.echo(f"{self.text} ...", err=True)


def _is_imported() -> bool:
    package = sys.modules.get("attnzoo")
    # Python's own flag while a module is being imported
    return package is not None and not getattr(package.__spec__, "_initializing", False)


_watch: _Watch | None = None


def step(text: str) -> None:
    """Begins a step of a command, such as "tracing the model"."""
    if _watch is not None:
        _watch.begin(text)


@contextmanager
def counted(text: str, total: int) -> Iterator[Callable[[], None]]:
    """Begins a step of many parts, and yields a function to call after each; a line now and then has their number.

    Args:
        text: what is done.
        total: number of parts.
    """
    step(text)
    done, spoken, wait = 0, time.monotonic(), _FIRST_WAIT

    def advance() -> None:
        nonlocal done, spoken, wait
        done += 1
        if _watch is not None and time.monotonic() - spoken > wait:
            click.echo(f"{text}: {done} of {total}", err=True)
            _watch.is_said = True
            spoken, wait = time.monotonic(), min(2 * wait, _LONGEST_WAIT)

    yield advance
    step("")


@contextmanager
def spoken_steps() -> Iterator[None]:
    """Says the steps of a command within the context."""
    global _watch
    # a command may run another one; of the processes that torchrun starts, one speaks
    if _watch is not None or os.environ.get("RANK", "0") != "0" or math.isinf(PATIENCE):
        yield
        return
    _watch = watch = _Watch()
    threading.Thread(target=watch.run, daemon=True).start()
    try:
        yield
    finally:
        _watch = None
        watch.ended.set()
