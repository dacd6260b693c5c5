"""Opening data sets by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from attnzoo_command.keys import unknown_key

_Source = TypeVar("_Source")


def open_source(
    known: Mapping[str, Callable[..., _Source]],
    data: Mapping[str, Any],
    split: str,
    prepared: Sequence[str],
    **more: Any,
) -> _Source:
    """Opens the data set of a recipe's `data`.

    Args:
        known: functions that open a data set, by name.
        data: `name`, and the arguments of the data set.
        split: "train", "val" or another split that the data set has.
        prepared: keys of `data` for preprocessing, which are not arguments of the data set.
        more: additional arguments of every data set.

    Raises:
        ValueError: an unknown data set or split, or invalid arguments.
    """
    name = data.get("name", "")
    if name not in known:
        raise ValueError(f"data.name must be one of {', '.join(known)}, got {name!r}")
    options = {key: value for key, value in data.items() if key not in (*prepared, "name")}
    parameters = inspect.signature(known[name]).parameters
    allowed = [key for key in parameters if key not in ("split", *more)]
    is_open = any(x.kind is x.VAR_KEYWORD for x in parameters.values())
    if unknown := [] if is_open else [key for key in options if key not in allowed]:
        said = unknown_key(f"data.{unknown[0]}", options[unknown[0]], [*allowed, *prepared])
        raise ValueError(f"data: invalid keys for {name}: {said}")
    needed = () if is_open else (key for key in allowed if parameters[key].default is inspect.Parameter.empty)
    if missing := [key for key in needed if key not in options]:
        raise ValueError(f"data: set data.{missing[0]}, which {name} needs")
    try:
        return known[name](split, **more, **options)
    except TypeError as error:
        raise ValueError(f"data: invalid keys for {name}: {error}") from error


def check_split(split: str) -> None:
    """Checks the split of a data set that has only one for training and one for validation.

    Raises:
        ValueError: it is another split.
    """
    if split not in ("train", "val"):
        raise ValueError(f'the splits of this data set are "train" and "val", got {split!r}')
