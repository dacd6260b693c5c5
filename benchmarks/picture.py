"""Figure of time over size: a panel per operator and direction, with a line per implementation and the floor.

It shows the first stage of the networks: other stages have other heads or keys, so their points do not lie on one line.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attnzoo.tools.files import replacing

DIRECTIONS = ("forward", "backward")
_FLOOR = "#888888"


def draw(path: Path, title: str, rows: Sequence[Mapping[str, Any]], dtype: str = "bfloat16") -> None:
    """Draws the rows of one dtype.

    Args:
        path: PNG file to write.
        title: title of the figure.
        rows: results of `cuda.measure`.
        dtype: dtype of the rows to draw.
    """
    shown = [row for row in rows if row["dtype"] == dtype and row["results"]]
    names = list(dict.fromkeys(row["operator"] for row in shown))
    if not names:
        return
    figure = Figure(figsize=(6.5 * len(names), 9), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}, {dtype}", fontsize=12)
    panels = figure.subplots(2, len(names), squeeze=False)
    for column, operator in enumerate(names):
        mine = first_stage([row for row in shown if row["operator"] == operator])
        form = f", {mine[0]['detail']}" if mine[0]["detail"] else ""
        for line, direction in enumerate(DIRECTIONS):
            _draw_panel(panels[line][column], f"{operator}, {direction}{form}", mine, direction)
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png")


def first_stage(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Selects the rows with the fewest heads and the same `detail` as the first of them."""
    heads = min(row["shape"]["heads"] for row in rows)
    found = [row for row in rows if row["shape"]["heads"] == heads]
    return [row for row in found if row["detail"] == found[0]["detail"]]


def series(rows: Iterable[Mapping[str, Any]], direction: str) -> dict[str, list[tuple[int, float]]]:
    """Returns points (queries of all heads, milliseconds) by implementation, and the floor; the median per size."""
    points: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        points["floor"][row["queries"]].append(row["floor_milliseconds"][direction])
        for name, found in row["results"].items():
            if direction in found:
                points[name][row["queries"]].append(found[direction]["median"])
    return {
        name: [(size, statistics.median(times)) for size, times in sorted(found.items())]
        for name, found in points.items()
    }


def _draw_panel(axes: Any, title: str, rows: Sequence[Mapping[str, Any]], direction: str) -> None:
    for name, points in series(rows, direction).items():
        style = {"color": _FLOOR, "linestyle": "--"} if name == "floor" else {"marker": "o", "markersize": 3}
        axes.loglog(*zip(*points, strict=True), label=name, linewidth=2.5 if name == "ours" else 1.2, **style)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("queries: batch x rows x columns x heads")
    axes.set_ylabel("milliseconds, median")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=9)
