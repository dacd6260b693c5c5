"""The picture of a scene: a row per query, a column per layer, and Grad-CAM."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from ..files import replacing
from .scenes import Scene

# perceptually uniform
COLOURS = "magma"
_PANEL, _SHARE = 2.6, 0.65


def draw(path: Path, scene: Scene, queries: Sequence[tuple[int, int]]) -> None:
    """Draws a scene.

    Args:
        path: PNG file to write; it is written atomically.
        scene: the scene.
        queries: (row, column) in pixels of the scene's picture.
    """
    columns = 1 + len(scene.layers) + 1
    rows = len(queries) if scene.layers else 1
    height, width = scene.picture.shape[:2]
    size = _PANEL * columns + 0.9, _PANEL * height / width * rows + 0.9
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels: Any = figure.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.set_axis_off()
    for number, query in enumerate(queries[:rows]):
        _picture(panels[number, 0], scene, "as the network sees it" if number == 0 else "")
        if scene.layers:
            _mark(panels[number, 0], query)
        for column, layer in enumerate(scene.layers, 1):
            panel = panels[number, column]
            _picture(panel, scene, _title(layer.layer, layer.kind) if number == 0 else "")
            found = layer.at(query)
            if found.weights is not None:
                _overlay(panel, found.on_images()[0].cpu())
                _mark(panel, query)
            elif found.channels is not None:
                _bars(panel, found.channels[0].tolist())
    _picture(panels[0, -1], scene, f"Grad-CAM\n{scene.prediction}")
    _overlay(panels[0, -1], scene.cam)
    scale = figure.colorbar(ScalarMappable(cmap=COLOURS), ax=panels, shrink=0.6, pad=0.01, aspect=30)
    scale.set_ticks([0, 1], labels=["none", "most"])
    scale.ax.tick_params(labelsize=8)
    with replacing(path) as fresh:
        figure.savefig(fresh, format="png")


def _title(layer: str, kind: str) -> str:
    """The place and the kind of a layer in two lines that fit above a panel."""
    place, _, block = layer.removesuffix(".attn").partition(".blocks.")
    return f"{place}\nblock {block}, {kind}" if block else f"{place}\n{kind}"


def _picture(panel: Any, scene: Scene, title: str) -> None:
    panel.imshow(scene.picture.numpy())
    panel.set_title(title, fontsize=8)


def _overlay(panel: Any, weights: Any) -> None:
    # the picture shows through where there is no weight
    colours = matplotlib.colormaps[COLOURS](weights.clamp(0, 1).numpy())
    colours[..., 3] = _SHARE
    panel.imshow(colours)


def _mark(panel: Any, query: tuple[int, int]) -> None:
    for colour, width in (("black", 4), ("white", 2)):
        panel.plot(query[1], query[0], "o", markersize=9, fillstyle="none", color=colour, markeredgewidth=width)


def _bars(panel: Any, channels: Sequence[float]) -> None:
    """A bar of channels, from the left to the right, in place of the picture."""
    panel.clear()
    panel.bar(range(len(channels)), channels, width=1.0, color=matplotlib.colormaps[COLOURS](0.5))
    panel.set_xlabel(f"{len(channels)} channels", fontsize=8)
    panel.tick_params(labelsize=7)
    panel.set_box_aspect(1)
