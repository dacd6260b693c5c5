"""The figure of the demo: predictions, confusion matrix and the attention of one pixel.

Shapes: N images, C channels, (H, W) map, h heads, k x k kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from attnzoo.blocks import NeighborhoodAttention
from attnzoo.explanation import explain

from .confusion import draw_confusion
from .files import replacing

_WRONG, _QUERY, _ATTENDED = "#c0392b", "#1f4e9c", "#e8710a"
_SHOWN = 30


def draw_digits(
    path: Path, model: nn.Module, images: Tensor, labels: Tensor, logits: Tensor, classes: Sequence[str]
) -> None:
    """Draws the results on the held-out digits.

    Args:
        path: PNG file to write; it is written atomically.
        model: a model with at least one `NeighborhoodAttention`; the first one is drawn. All inputs are on the CPU.
        images: (N, 1, H, W), preprocessed.
        labels: (N,), true classes.
        logits: (N, classes), output of the model.
        classes: class names.
    """
    figure = Figure(figsize=(15, 5.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subfigures(1, 3, width_ratios=(1.05, 1, 1))
    left, middle, right = panels
    _draw_predictions(left, images, labels, logits.argmax(1), classes)
    _draw_confusion(middle, labels, logits.argmax(1), classes)
    _draw_attention(right, model, images, labels, classes)
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png")


def _draw_predictions(panel: Any, images: Tensor, labels: Tensor, predictions: Tensor, classes: Sequence[str]) -> None:
    wrong = (predictions != labels).nonzero().flatten().tolist()
    right = (predictions == labels).nonzero().flatten().tolist()
    shown = (wrong + right)[:_SHOWN]
    note = "" if not wrong else "; errors in red"
    panel.suptitle(f"Predictions: {len(right)} of {len(images)} held-out digits correct{note}", fontsize=11)
    for axes, index in zip(panel.subplots(5, 6).flat, shown, strict=False):
        axes.imshow(images[index, 0].numpy(), cmap="gray_r", interpolation="nearest")
        predicted, true = classes[int(predictions[index])], classes[int(labels[index])]
        text = predicted if predicted == true else f"{predicted} (true: {true})"
        axes.set_title(text, fontsize=10, pad=2, color="#333333" if predicted == true else _WRONG)
        _frame(axes)


def _draw_confusion(panel: Any, labels: Tensor, predictions: Tensor, classes: Sequence[str]) -> None:
    panel.suptitle("Confusion matrix", fontsize=11)
    count = len(classes)
    matrix = torch.bincount(labels * count + predictions, minlength=count * count).view(count, count)
    draw_confusion(panel.subplots(), matrix, classes)


def _draw_attention(panel: Any, model: nn.Module, images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    name, block = next(
        (name, module) for name, module in model.named_modules() if isinstance(module, NeighborhoodAttention)
    )
    kernel = "x".join(map(str, block.kernel_size))
    panel.suptitle(f"Attention of one pixel in its {kernel} neighborhood", fontsize=11)
    chosen = [int((labels == label).nonzero()[0]) for label in range(min(4, len(classes)))]
    found = explain(model, images[chosen], name)
    assert found.weights is not None
    size = found.weights.shape[2:]
    heads = "one head" if block.num_heads == 1 else f"mean over {block.num_heads} heads"
    panel.supxlabel(
        "blue: query pixel; dashed: neighborhood; orange: attention weight\n"
        f"{name}, map of {size[0]}x{size[1]}, {heads}",
        fontsize=9,
    )
    for number, (axes, index) in enumerate(zip(panel.subplots(2, 2).flat, chosen, strict=False)):
        row, column = _query(images[index, 0], size)
        # the first pixels of the cell
        pixel = -(-row * images.shape[2] // size[0]), -(-column * images.shape[3] // size[1])
        of_query = found.at(pixel).weights
        assert of_query is not None
        weights = of_query[number].mean(0)
        # in units of map cells: cell (i, j) covers [j, j + 1] x [i, i + 1]
        extent = (0, size[1], size[0], 0)
        axes.imshow(images[index, 0].numpy(), cmap="gray_r", alpha=0.6, interpolation="bilinear", extent=extent)
        orange = torch.tensor(to_rgba(_ATTENDED)).repeat(*weights.shape, 1)
        orange[..., 3] = 0.9 * weights / weights.max()
        axes.imshow(orange.numpy(), interpolation="nearest", extent=extent)
        seen = weights.nonzero()
        top, left = seen.min(0).values.tolist()
        bottom, right = (seen.max(0).values + 1).tolist()
        axes.add_patch(_box(top, left, bottom, right, edgecolor="#555555", linestyle="--", linewidth=1.2))
        axes.add_patch(_box(row, column, row + 1, column + 1, edgecolor=_QUERY, linewidth=2.5))
        _frame(axes)


def _box(top: int, left: int, bottom: int, right: int, **style: Any) -> Rectangle:
    return Rectangle((left, top), right - left, bottom - top, fill=False, **style)


def _query(image: Tensor, size: Sequence[int]) -> tuple[int, int]:
    """Returns the cell with the most ink in a map of this size, away from the border."""
    ink = torch.nn.functional.adaptive_avg_pool2d(image[None, None], (size[0], size[1]))[0, 0].clone()
    border = torch.ones_like(ink, dtype=torch.bool)
    border[2:-2, 2:-2] = min(size) < 5
    index = int(ink.masked_fill(border, -torch.inf).argmax())
    return index // size[1], index % size[1]


def _frame(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")
