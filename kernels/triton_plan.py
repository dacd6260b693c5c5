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
from .precision import precision_of
from .repeated import signature_of
from .triton_blocks import Tokens
from .triton_launch import Launch

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


class _Recipe(NamedTuple):
    """How a call makes tensors.

    Attributes:
        function: function that returns one tensor or several.
        sources: places of its arguments in the workspace.
        places: places of what it returns.
    """

    function: Callable[..., Any]
    sources: tuple[int, ...]
    places: range


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
        self.recipes: list[_Recipe] = []

    def make(self, function: Callable[..., Any], *sources: Tensor) -> Any:
        """Returns a tensor or several that a function computes from tensors of the call.

        Args:
            function: function that gives equally shaped tensors in all calls of this kind, and writes to none of its
                arguments.
            sources: its arguments, tensors of this workspace.
        """
        made = function(*sources)
        places = range(len(self.tensors), len(self.tensors) + (1 if isinstance(made, Tensor) else len(made)))
        self.recipes.append(_Recipe(function, tuple(self.place_of(x) for x in sources), places))
        self.tensors += [made] if isinstance(made, Tensor) else made
        return made

    def empty(self, shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
        """Returns a contiguous tensor that is not initialized."""
        strides = torch.empty(tuple(shape), device="meta").stride()
        for x in self.given:
            if x is not None and (x.shape, x.stride(), x.dtype, x.device) == (tuple(shape), strides, dtype, device):
                # takes half of the time
                return self.make(torch.empty_like, x)
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
        start: function of all arguments of the kernel; a tensor is given by its address.
        arguments: the arguments, with None in the places of tensors.
        tensors: index among the arguments, place among the tensors of the plan, offset in bytes, and strides if it is
            passed as `Tokens`.
    """

    start: Callable[..., None]
    arguments: list[Any]
    tensors: tuple[tuple[int, int, int, tuple[int, ...] | None], ...]


@dataclass(frozen=True)
class Plan:
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
        first = given[0]
        assert first is not None
        index = first.get_device()
        if index < 0 or index == torch.cuda.current_device():
            return self._run(given)
        with torch.cuda.device(index):
            return self._run(given)

    def _run(self, given: Sequence[Tensor | None]) -> list[Tensor]:
        tensors: list[Any] = list(given)
        for function, sources in self.recipes:
            made = function(*[tensors[place] for place in sources])
            if isinstance(made, Tensor):
                tensors.append(made)
            else:
                tensors += made
        addresses = [0 if x is None else x.data_ptr() for x in tensors]
        driver = triton.runtime.driver.active
        stream = driver.get_current_stream(driver.get_current_device())
        for start, template, places in self.launches:
            arguments = template.copy()
            for index, place, offset, strides in places:
                address = addresses[place] + offset
                arguments[index] = address if strides is None else (address, *strides)
            start(*arguments, stream=stream)
        return [tensors[place] if finish is None else finish(tensors[place]) for place, finish in self.results]


def run(
    kind: Hashable,
    given: Sequence[Tensor | None],
    build: Callable[[Workspace], tuple[Sequence[Launch], Sequence[Result]]],
    keep: Callable[[Plan], None] | None = None,
) -> list[Tensor]:
    """Runs the launches of a call, and returns its results.

    Args:
        kind: what the launches depend on in addition to the tensors' shapes, strides and dtypes.
        given: tensors of the caller, the first of which is not None.
        build: function that returns the launches and the results of a call. All tensors that it uses are tensors of
            the workspace.
        keep: function that is given the prepared call, if there is one.

    Raises:
        KernelError: a kernel could not be compiled or launched.
    """
    first = given[0]
    assert first is not None
    key = _key(kind, first, given)
    plan: Plan | None = cache.read(key)
    if plan is not None:
        results = plan.run(given)
    else:
        with torch.cuda.device_of(first):
            workspace = Workspace(given)
            launches, unfinished = build(workspace)
            started = [(launch, launch.run()) for launch in launches]
            results = [x if finish is None else finish(x) for x, finish in unfinished]
        plan = _plan_of(workspace, started, unfinished)
        if plan is not None:
            cache.write(key, plan, _BYTES)
    if plan is not None and keep is not None:
        keep(plan)
    return results


def _key(kind: Hashable, first: Tensor, given: Sequence[Tensor | None]) -> Hashable:
    """Returns all that launches and compiled kernels depend on."""
    return Plan, kind, precision_of(first.dtype), *signature_of(given)


def _plan_of(workspace: Workspace, started: Sequence[tuple[Launch, Any]], results: Sequence[Result]) -> Plan | None:
    """Returns the plan of a call that ran; None if it cannot be repeated.

    That is so in the interpreter, while tuning, and where a tensor had to be copied before the workspace knew it.
    """
    ran = [(launch, compiled) for launch, compiled in started if launch.programs]
    finished = [(workspace.place_of(x), finish) for x, finish in results]
    used = {place for place, _ in finished}
    launches = []
    for launch, compiled in ran:
        if compiled is None:
            return None
        tensors, template = [], launch.values
        for index, value in enumerate(tuple(template)):
            x = value.data if isinstance(value, Tokens) else value
            if isinstance(x, Tensor):
                tensors.append((index, workspace.place_of(x), value[1:] if isinstance(value, Tokens) else None))
                template[index] = None
        launches.append((compiled[(launch.programs, 1, 1)], template, tensors))
    sources = {place for recipe in workspace.recipes for place in recipe.sources}
    if -1 in used | sources | {place for _, _, tensors in launches for _, place, _ in tensors}:
        return None
    places, recipes = _compact(workspace, used)
    return Plan(
        tuple((recipe.function, tuple(places[source][0] for source in recipe.sources)) for recipe in recipes),
        tuple(
            _Prepared(start, template, tuple((index, *places[place], strides) for index, place, strides in tensors))
            for start, template, tensors in launches
        ),
        tuple((places[place][0], finish) for place, finish in finished),
    )


def _compact(workspace: Workspace, used: set[int]) -> tuple[dict[int, tuple[int, int]], list[_Recipe]]:
    """Leaves out recipes of views, of which kernels need the address alone.

    Args:
        workspace: the tensors of a call.
        used: places of the tensors that are needed themselves.

    Returns:
        For each place in the workspace the place of a tensor that a repeated call has, and an offset in bytes from its
        address; and the recipes of these tensors.
    """
    used, kept = set(used), list[_Recipe]()
    for recipe in reversed(workspace.recipes):
        if not used.isdisjoint(recipe.places) or not _are_views(workspace, recipe):
            used.update(recipe.sources)
            kept.insert(0, recipe)
    places = {place: (place, 0) for place in range(len(workspace.given))}
    count = len(places)
    for recipe in workspace.recipes:
        for place in recipe.places:
            if recipe in kept:
                places[place] = count, 0
                count += 1
            else:
                source, view = workspace.tensors[recipe.sources[0]], workspace.tensors[place]
                base, offset = places[recipe.sources[0]]
                places[place] = base, offset + view.data_ptr() - source.data_ptr()  # type: ignore[union-attr]
    return places, kept


def _are_views(workspace: Workspace, recipe: _Recipe) -> bool:
    """Returns whether all that a recipe makes are parts of its only argument."""
    if len(recipe.sources) != 1:
        return False
    tensors = [workspace.tensors[place] for place in (recipe.sources[0], *recipe.places)]
    memory = {x.untyped_storage().data_ptr() for x in tensors if x is not None}
    return len(memory) == 1 and 0 not in memory
