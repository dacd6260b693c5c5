"""Data sets by the name that a recipe's `data` gives them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

SPLITS = ("train", "val")

_Source = TypeVar("_Source")


def open_source(
    known: Mapping[str, Callable[..., _Source]],
    data: Mapping[str, Any],
    split: str,
    prepared: Sequence[str],
    **more: Any,
) -> _Source:
    """What a recipe's `data` names.

    Args:
        known: makes of each data set, by name.
        data: `name`, and what the data set takes.
        split: "train" or "val".
        prepared: keys of `data` that say how pictures are prepared, and are not for the data set.
        more: what every data set takes.

    Raises:
        ValueError: an unknown data set or split, or keys that it does not take.
    """
    if split not in SPLITS:
        raise ValueError(f'split must be "train" or "val", got {split!r}')
    name = data.get("name", "")
    if name not in known:
        raise ValueError(f"data.name must be one of {', '.join(known)}, got {name!r}")
    options = {key: value for key, value in data.items() if key not in (*prepared, "name")}
    try:
        return known[name](split, **more, **options)
    except TypeError as error:
        raise ValueError(f"data: {name} does not take these keys: {error}") from error
