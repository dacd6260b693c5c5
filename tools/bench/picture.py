"""A plot of latency over batch size, with a line for each model, image size and runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ..files import replacing


def draw_latency(path: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Plots rows of `models.measure`, with inference and training side by side.

    Args:
        path: PNG file to write.
        rows: rows that were timed.

    Returns:
        Whether there was something to plot.
    """
    directions = list(dict.fromkeys(row["direction"] for row in rows))
    if not directions:
        return False
    figure = Figure(figsize=(8 * len(directions), 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(1, len(directions), squeeze=False)[0]
    for axes, direction in zip(panels, directions, strict=True):
        lines: dict[str, list[tuple[int, float]]] = {}
        for row in (row for row in rows if row["direction"] == direction):
            name = f"{row['model']} {row['image_size']}px {row['runtime']}"
            lines.setdefault(name, []).append((row["batch"], row["milliseconds"]["median"]))
        for name, points in lines.items():
            axes.loglog(*zip(*sorted(points), strict=True), "o-", markersize=4, label=name)
        batches = sorted({row["batch"] for row in rows})
        axes.set_xticks(batches, [str(batch) for batch in batches], minor=False)
        axes.set_xlabel("batch size")
        axes.set_ylabel(f"median milliseconds per {'training step' if direction == 'training' else 'batch'}")
        axes.grid(True, which="major", alpha=0.3)
        axes.legend(fontsize=8)
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png")
    return True
