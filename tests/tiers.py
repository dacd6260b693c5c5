"""Which cases of a long list run in the quick suite: a fifth, chosen so that together they show the most pairs.

The others have the mark `full`; a part of them runs with `make test-all`, see `conftest.py`. Tests that take long have
the mark, too; `durations.json` names them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import combinations, product
from typing import Any

import pytest


def fifth(*axes: Iterable[Any]) -> list[Any]:
    """All combinations of some values, as parameters of a test; all but a fifth of them have the mark `full`.

    A case is described by its values, and a dataclass by those of its fields that are not the default. One after
    another, the case is chosen that shows the most pairs of such values that none before it shows.
    """
    cases = list(product(*axes))
    shown = [_pairs(case) for case in cases]
    chosen: set[int] = set()
    while len(chosen) < -(-len(cases) // 5):
        best = max((i for i in range(len(cases)) if i not in chosen), key=lambda i: (len(shown[i]), -i))
        chosen.add(best)
        shown = [pairs - shown[best] for pairs in shown]
    return [
        pytest.param(*case, id="-".join(map(_name, case)), marks=() if i in chosen else pytest.mark.full)
        for i, case in enumerate(cases)
    ]


def quick(names: Iterable[Any], chosen: Iterable[Any]) -> list[Any]:
    """All of some values, as parameters of a test; those that are not chosen have the mark `full`."""
    chosen = list(chosen)
    return [pytest.param(name, id=_name(name), marks=() if name in chosen else pytest.mark.full) for name in names]


def _pairs(case: tuple[Any, ...]) -> set[Any]:
    values: list[tuple[Any, ...]] = []
    for axis, value in enumerate(case):
        if dataclasses.is_dataclass(value):
            fields = [field for field in dataclasses.fields(value) if field.name != "name"]
            found = ((field, getattr(value, field.name)) for field in fields)
            values += [(axis, field.name, repr(x)) for field, x in found if x != field.default]
        else:
            values.append((axis, repr(value)))
    return {*values, *combinations(values, 2)}


def _name(value: Any) -> str:
    return str(getattr(value, "name", None) or str(value).removeprefix("torch."))
