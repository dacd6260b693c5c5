"""The confusion matrix of a classifier: a picture, a table, and the classes that are confused most."""

from __future__ import annotations

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from .files import replacing

_WRONG = "#c0392b"
# with more classes, cells have no numbers, and only some of the classes have a label
_MOST_NUMBERS, _MOST_LABELS = 30, 60


def write_confusion(folder: Path, matrix: Tensor, classes: Sequence[str]) -> None:
    """Writes `confusion.png` and `confusion.csv`, which has a row for each true class.

    Args:
        folder: an existing folder.
        matrix: (classes, classes), numbers of images by true and predicted class.
        classes: class names.
    """
    side = min(20.0, 3 + 0.35 * len(classes))
    figure = Figure(figsize=(side, side), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    draw_confusion(figure.subplots(), matrix, classes)
    with replacing(folder / "confusion.png") as fresh, warnings.catch_warnings():
        # letters that the font does not have are said once, with those of the drawings
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(fresh, format="png")
    with replacing(folder / "confusion.csv") as fresh, fresh.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["true / predicted", *classes])
        writer.writerows([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))


def draw_confusion(axes: Any, matrix: Tensor, classes: Sequence[str]) -> None:
    """Draws a confusion matrix on axes of matplotlib; mistakes are red. See `write_confusion` for the arguments."""
    count = len(classes)
    axes.imshow(matrix.numpy(), cmap="Blues", vmax=1.25 * max(1.0, float(matrix.max())))
    for true, predicted in matrix.nonzero().tolist() if count <= _MOST_NUMBERS else ():
        number = int(matrix[true, predicted])
        color = "white" if true == predicted and number > matrix.max() / 2 else "#333333"
        axes.text(
            predicted, true, str(number), ha="center", va="center", fontsize=10,
            color=color if true == predicted else _WRONG, weight="normal" if true == predicted else "bold",
        )  # fmt: skip
    shown = range(0, count, -(-count // _MOST_LABELS))
    is_long = max((len(name) for name in classes), default=0) > 3
    axes.set_xticks(shown, [classes[i] for i in shown], rotation=90 if is_long else 0)
    axes.set_yticks(shown, [classes[i] for i in shown])
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)


def most_confused(matrix: Tensor, classes: Sequence[str], count: int = 10) -> list[dict[str, Any]]:
    """Returns the most frequent mistakes: `true` and `predicted` class, and the number of `images`."""
    wrong = matrix.clone().fill_diagonal_(0)
    numbers, places = wrong.flatten().topk(min(count, wrong.numel()))
    return [
        {"true": classes[place // len(classes)], "predicted": classes[place % len(classes)], "images": number}
        for number, place in zip(numbers.tolist(), places.tolist(), strict=True)
        if number
    ]
