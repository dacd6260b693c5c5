"""Calls of kernels that are prepared once: what a call decides follows from shapes, strides and dtypes.

The first call of its kind builds launches, which takes some hundred microseconds of Python, and compiles their kernels.
What it decided is kept, see `attnzoo.kernels.cache`. Later calls only allocate tensors and start compiled kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from . import cache
from .triton_blocks import Tokens
from .triton_launch import Launch, precision_of

# about what the objects of a plan take
_BYTES = 8 << 10


class Result(NamedTuple):
    """A result of a call.

    Attributes:
        tensor: tensor of the workspace, which launches fill.
        finish: function that computes the result from it after all launches; None if it is the result itself.
    """

    tensor: Tensor
    finish: Callable[[Tensor], Tensor] | None = None


class Workspace:
    """The tensors of a call: those that were given, and those that the call makes, in this order.

    Args:
        given: tensors of the caller; None stands for one that is left out.
    """

    def __init__(self, given: Iterable[Tensor | None] = ()) -> None:
        # one tensor given twice must have two places
        self.tensors: list[Tensor | None] = []
        for x in given:
            self.tensors.append(x.view(x.shape) if any(x is other for other in self.tensors) and x is not None else x)
        self.given = tuple(self.tensors)
        self.recipes: list[tuple[Callable[..., Any], tuple[int, ...]]] = []

    def make(self, function: Callable[..., Any], *sources: Tensor) -> Any:
        """Returns a tensor or several that a function computes from tensors of the call.

        Args:
            function: function that gives equally shaped tensors in all calls of this kind.
            sources: its arguments, tensors of this workspace.
        """
        made = function(*sources)
        self.recipes.append((function, tuple(self.place_of(x) for x in sources)))
        self.tensors += [made] if isinstance(made, Tensor) else made
        return made

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns a contiguous tensor that is not initialized."""
        return self.make(partial(torch.empty, tuple(shape), dtype=dtype, device=device))

    def zeros(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns a contiguous tensor of zeros."""
        return self.make(partial(torch.zeros, tuple(shape), dtype=dtype, device=device))

    def place_of(self, x: Tensor) -> int:
        """Returns the place of a tensor of this workspace, or -1 for any other tensor."""
        return next((place for place, other in enumerate(self.tensors) if x is other), -1)


class _Prepared(NamedTuple):
    """A compiled kernel with its arguments.

    Attributes:
        start: function of all arguments of the kernel.
        arguments: the arguments, with None in the places of tensors.
        tensors: index among the arguments, place in the workspace, and strides if it is passed as `Tokens`.
    """

    start: Callable[..., None]
    arguments: tuple[Any, ...]
    tensors: tuple[tuple[int, int, tuple[int, int, int, int] | None], ...]


@dataclass(frozen=True)
class _Plan:
    """A prepared call.

    Attributes:
        recipes: functions that make tensors, with the places of their arguments.
        launches: the launches, in order.
        results: place of each result, and the function that finishes it.
    """

    recipes: tuple[tuple[Callable[..., Any], tuple[int, ...]], ...]
    launches: tuple[_Prepared, ...]
    results: tuple[tuple[int, Callable[[Tensor], Tensor] | None], ...]

    def run(self, given: Sequence[Tensor | None]) -> list[Tensor]:
        """Repeats the call for other tensors of the same shapes, strides and dtypes."""
        tensors: list[Any] = list(given)
        for function, sources in self.recipes:
            made = function(*[tensors[place] for place in sources])
            if isinstance(made, Tensor):
                tensors.append(made)
            else:
                tensors += made
        driver = triton.runtime.driver.active
        stream = driver.get_current_stream(driver.get_current_device())
        for start, template, places in self.launches:
            arguments = list(template)
            for index, place, strides in places:
                x = tensors[place]
                arguments[index] = x if strides is None else Tokens(x, *strides)
            start(*arguments, stream=stream)
        return [tensors[place] if finish is None else finish(tensors[place]) for place, finish in self.results]


def run(
    kind: Hashable,
    given: Sequence[Tensor | None],
    build: Callable[[Workspace], tuple[Sequence[Launch], Sequence[Result]]],
) -> list[Tensor]:
    """Runs the launches of a call, and returns its results.

    Args:
        kind: what the launches depend on in addition to the tensors' shapes, strides and dtypes.
        given: tensors of the caller, the first of which is not None.
        build: function that returns the launches and the results of a call. All tensors that it uses are tensors of
            the workspace.

    Raises:
        KernelError: a kernel could not be compiled or launched.
    """
    first = given[0]
    assert first is not None
    with torch.cuda.device_of(first):
        key = _key(kind, first, given)
        plan = cache.read(key)
        if plan is not None:
            results: list[Tensor] = plan.run(given)
            return results
        workspace = Workspace(given)
        launches, unfinished = build(workspace)
        started = [(launch, launch.run()) for launch in launches]
        results = [x if finish is None else finish(x) for x, finish in unfinished]
        plan = _plan_of(workspace, started, unfinished)
        if plan is not None:
            cache.write(key, plan, _BYTES)
    return results


def _key(kind: Hashable, first: Tensor, given: Sequence[Tensor | None]) -> Hashable:
    """Returns all that launches and compiled kernels depend on: Triton compiles for the alignment of addresses."""
    signatures = [None if x is None else (x.shape, x.stride(), x.dtype, x.data_ptr() % 16) for x in given]
    return _Plan, kind, first.device, precision_of(first.dtype), *signatures


def _plan_of(workspace: Workspace, started: Sequence[tuple[Launch, Any]], results: Sequence[Result]) -> _Plan | None:
    """Returns the plan of a call that ran; None if it cannot be repeated.

    That is so in the interpreter, while tuning, and where a tensor had to be copied before the workspace knew it.
    """
    prepared = []
    for launch, compiled in started:
        programs = launch.programs
        if programs == 0:
            continue
        if compiled is None:
            return None
        values = launch.values
        tensors, template = [], list(values)
        for index, value in enumerate(values):
            strides = value[1:] if isinstance(value, Tokens) else None
            x = value.data if isinstance(value, Tokens) else value
            if isinstance(x, Tensor):
                tensors.append((index, workspace.place_of(x), strides))
                template[index] = None
        prepared.append(_Prepared(compiled[(programs, 1, 1)], tuple(template), tuple(tensors)))
    finished = tuple((workspace.place_of(x), finish) for x, finish in results)
    places = [place for launch in prepared for _, place, _ in launch.tensors] + [place for place, _ in finished]
    places += [place for _, sources in workspace.recipes for place in sources]
    if -1 in places:
        return None
    return _Plan(tuple(workspace.recipes), tuple(prepared), finished)
