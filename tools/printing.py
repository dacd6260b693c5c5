"""The result of an evaluation as tables on the console."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from .files import plural

if TYPE_CHECKING:
    from .evaluate import Evaluation

# number of classes shown, the worst first
_SHOWN = 20


def print_evaluation(result: Evaluation) -> None:
    """Prints the metrics, how they were measured, the worst classes, mistakes, and what was skipped."""
    console = Console(highlight=False)
    table = Table(*result.metrics)
    table.add_row(*(f"{v:.2%}" if k in result.shares else f"{v:.4g}" for k, v in result.metrics.items()))
    console.print(table)
    shown = ", ".join(f"{key} {_plain(value)}" for key, value in result.preprocessing.items())
    console.print(f"preprocessing: {shown}", markup=False, soft_wrap=True)
    console.print(f"device: {result.device}", markup=False, soft_wrap=True)
    rows = list(result.per_class.items())
    if rows:
        deciding = next(iter(rows[0][1]))
        rows.sort(key=lambda row: (math.isnan(row[1][deciding]), row[1][deciding]))
        table = Table("class", *rows[0][1], title="worst classes" if len(rows) > _SHOWN else None)
        for name, values in rows[:_SHOWN]:
            table.add_row(name, *map(_cell, values.values()))
        console.print(table)
    if result.confused:
        table = Table("true class", "predicted", "images", title="most frequent mistakes")
        for entry in result.confused:
            table.add_row(*map(str, entry.values()))
        console.print(table)
    if result.remarks:
        console.print(result.remarks, markup=False, soft_wrap=True)
    if result.unreadable:
        console.print(f"skipped {plural(len(result.unreadable), 'file')} that could not be read:")
        for message in result.unreadable[:_SHOWN]:
            console.print(f"  {message}", markup=False, soft_wrap=True)


def _cell(value: float) -> str:
    return str(value) if isinstance(value, int) else "-" if math.isnan(value) else f"{value:.2%}"


def _plain(value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        return str(value)
    return (" x " if all(isinstance(x, int) for x in value) else " ").join(f"{x:.4g}" for x in value)
