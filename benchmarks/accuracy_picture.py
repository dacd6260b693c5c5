"""Figure of published accuracy over latency: each model in ONNX Runtime, joined by a line to its time in eager."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from attnzoo.tools.files import replacing

RUNTIME = "onnxruntime"
_TITLES = {RUNTIME: "ONNX Runtime", "eager": "eager"}


def draw(path: Path, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Draws the rows of the smallest batch size.

    Args:
        path: PNG file to write.
        rows: results of `export.measure`.

    Returns:
        Whether a figure was written: whether any model with published accuracy ran.
    """
    found = [row for row in rows if row["top1"] is not None and row[RUNTIME] != "-"]
    if not found:
        return False
    batch = min(row["batch"] for row in found)
    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.subplots()
    for family, points in by_family([row for row in found if row["batch"] == batch]).items():
        fast, accuracy = [row[RUNTIME]["median"] for row in points], [row["top1"] for row in points]
        (line,) = axes.plot(fast, accuracy, "o-", markersize=5, linewidth=1.5, label=family)
        for row in points:
            slow = row["eager"]["median"]
            axes.plot([slow, row[RUNTIME]["median"]], [row["top1"]] * 2, ":", color=line.get_color(), linewidth=1)
            axes.plot(slow, row["top1"], "o", color=line.get_color(), markerfacecolor="white", markersize=4)
            axes.annotate(
                row["model"], (row[RUNTIME]["median"], row["top1"]), (4, 5), textcoords="offset points", fontsize=7
            )
    axes.set_xscale("log")
    images = "one image" if batch == 1 else f"a batch of {batch}"
    axes.set_xlabel(f"milliseconds of {images}, median: {_TITLES[RUNTIME]} filled, {_TITLES['eager']} hollow")
    axes.set_ylabel("published ImageNet-1k top-1, %")
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(fontsize=9, loc="lower right")
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png")
    return True


def by_family(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Groups rows by family, the fastest model first; the family is the model's name without its last part."""
    families: dict[str, list[Mapping[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row[RUNTIME]["median"]):
        families.setdefault(row["model"].rpartition("_")[0] or row["model"], []).append(row)
    return families
