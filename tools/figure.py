"""The demo's picture: what the model reads, where it errs, and what one pixel attends to.

Shape legend: N images, C channels, H W map, h heads, k x k kernel.
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
from attnzoo.kernels.neighborhood.geometry import Axis

from .files import replacing

_WRONG, _QUERY, _ATTENDED = "#c0392b", "#1f4e9c", "#e8710a"
_SHOWN = 30


def draw_digits(
    path: Path, model: nn.Module, images: Tensor, labels: Tensor, logits: Tensor, classes: Sequence[str]
) -> None:
    """Draws the picture of a run on held-out digits.

    Args:
        path: PNG file to write; it is there whole or not at all.
        model: holds at least one `NeighborhoodAttention`; the first is looked into.
        images: (N, 1, H, W), as the model takes them, on the CPU like all the rest.
        labels: (N,) true classes.
        logits: (N, classes), what the model says.
        classes: their names.
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


def attention_map(block: NeighborhoodAttention, x: Tensor, row: int, column: int) -> Tensor:
    """What one pixel attends to, laid out over the map.

    Args:
        block: the attention.
        x: its input, (1, H, W, C).
        row: of the query.
        column: of the query.

    Returns:
        (H, W), averaged over the heads, zero outside the query's window. It sums to 1, or to less on a map smaller
        than the window, which is padded: what falls on the padding is left out.
    """
    height, width = x.shape[1:3]
    # (1, H, W, h, k * k) -> (k, k)
    weights = block.weights(x)[0, row, column].mean(0).unflatten(0, block.kernel_size)
    rows, columns = (
        Axis(max(length, kernel * dilation), kernel, dilation, stride, causal).neighbors(position)
        for length, position, kernel, dilation, stride, causal in zip(
            (height, width),
            (row, column),
            block.kernel_size,
            block.dilation,
            block.stride,
            block.is_causal,
            strict=True,
        )
    )
    result = x.new_zeros(height, width)
    for i, key_row in enumerate(rows):
        for j, key_column in enumerate(columns):
            if key_row is not None and key_column is not None and key_row < height and key_column < width:
                result[key_row, key_column] = weights[i, j]
    return result


def _draw_predictions(panel: Any, images: Tensor, labels: Tensor, read: Tensor, classes: Sequence[str]) -> None:
    wrong = (read != labels).nonzero().flatten().tolist()
    right = (read == labels).nonzero().flatten().tolist()
    shown = (wrong + right)[:_SHOWN]
    note = "" if not wrong else f"; {'the mistakes are' if len(wrong) > 1 else 'the mistake is'} red"
    panel.suptitle(f"{len(right)} of {len(images)} held-out digits read correctly{note}", fontsize=11)
    for axes, index in zip(panel.subplots(5, 6).flat, shown, strict=False):
        axes.imshow(images[index, 0].numpy(), cmap="gray_r", interpolation="nearest")
        said, true = classes[int(read[index])], classes[int(labels[index])]
        text = said if said == true else f"{said}, is {true}"
        axes.set_title(text, fontsize=10, pad=2, color="#333333" if said == true else _WRONG)
        _frame(axes)


def _draw_confusion(panel: Any, labels: Tensor, read: Tensor, classes: Sequence[str]) -> None:
    panel.suptitle("How often each digit was read as which", fontsize=11)
    count = len(classes)
    matrix = torch.bincount(labels * count + read, minlength=count * count).view(count, count)
    axes = panel.subplots()
    axes.imshow(matrix.numpy(), cmap="Blues", vmax=1.25 * float(matrix.max()))
    for true in range(count):
        for said in range(count):
            number = int(matrix[true, said])
            if number:
                color = "white" if true == said and number > matrix.max() / 2 else "#333333"
                axes.text(
                    said, true, str(number), ha="center", va="center", fontsize=10,
                    color=color if true == said else _WRONG, weight="normal" if true == said else "bold",
                )  # fmt: skip
    axes.set_xticks(range(count), classes)
    axes.set_yticks(range(count), classes)
    axes.set_xlabel("read as")
    axes.set_ylabel("is a")
    axes.tick_params(length=0)


def _draw_attention(panel: Any, model: nn.Module, images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    name, block = next(
        (name, module) for name, module in model.named_modules() if isinstance(module, NeighborhoodAttention)
    )
    kernel = "x".join(map(str, block.kernel_size))
    panel.suptitle(f"What one pixel attends to in its {kernel} neighborhood", fontsize=11)
    chosen = [int((labels == label).nonzero()[0]) for label in range(min(4, len(classes)))]
    inputs = _block_input(model, block, images[chosen])
    heads = "its one head" if block.num_heads == 1 else f"mean of {block.num_heads} heads"
    panel.supxlabel(
        "blue: the pixel; dashed: its neighborhood; orange: the weight\n"
        f"{name}, a map of {inputs.shape[1]}x{inputs.shape[2]}, {heads}",
        fontsize=9,
    )
    for axes, index, x in zip(panel.subplots(2, 2).flat, chosen, inputs, strict=False):
        row, column = _query(images[index, 0], x.shape[:2])
        with torch.no_grad():
            weights = attention_map(block, x[None], row, column)
        # drawn in cells of the map: cell (i, j) covers [j, j + 1] x [i, i + 1]
        extent = (0, x.shape[1], x.shape[0], 0)
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


def _block_input(model: nn.Module, block: nn.Module, images: Tensor) -> Tensor:
    """What arrives at a block, (N, H, W, C)."""
    captured: list[Tensor] = []
    handle = block.register_forward_pre_hook(lambda _, inputs: captured.append(inputs[0]))
    try:
        with torch.no_grad():
            model(images)
    finally:
        handle.remove()
    return captured[0]


def _query(image: Tensor, size: Sequence[int]) -> tuple[int, int]:
    """The cell of a map of this size that holds most ink among those away from the border."""
    ink = torch.nn.functional.adaptive_avg_pool2d(image[None, None], (size[0], size[1]))[0, 0].clone()
    border = torch.ones_like(ink, dtype=torch.bool)
    border[2:-2, 2:-2] = min(size) < 5
    place = int(ink.masked_fill(border, -torch.inf).argmax())
    return place // size[1], place % size[1]


def _frame(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#bbbbbb")
