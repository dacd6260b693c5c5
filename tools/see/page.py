"""The page of a scene: one HTML file without network, in which a click on the picture moves the query."""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from attnzoo.explanation import Explanation
from attnzoo.explanation.maps import scaled

from ..files import replacing
from .figure import COLOURS
from .scenes import Scene

_TEMPLATE = Path(__file__).resolve().parent / "page.html"
# queries per side: a layer has at most the square of this number of maps in the page
QUERIES = 14
# of Grad-CAM, which has a map only
_CAM_SIDE = 56


def write(path: Path, scene: Scene, query: tuple[int, int]) -> None:
    """Writes the page of a scene.

    Args:
        path: HTML file to write; it is written atomically.
        scene: the scene.
        query: (row, column) in pixels of the scene's picture, where the page starts.
    """
    height, width = scene.picture.shape[:2]
    colours = torch.from_numpy(matplotlib.colormaps[COLOURS](range(256)))[:, :3] * 255
    cam = F.interpolate(scene.cam[None, None], (min(height, _CAM_SIDE), min(width, _CAM_SIDE)), mode="area")
    panels = [_panel(layer) for layer in scene.layers]
    grids = [panel["queries"] for panel in panels if "queries" in panel]
    content = {
        "width": width,
        "height": height,
        "picture": _picture(scene.picture),
        "colours": _bytes(colours),
        "query": list(query),
        # positions that can be chosen
        "grid": max(grids, default=[QUERIES, QUERIES]),
        "panels": [
            *panels,
            {"title": "Grad-CAM", "about": scene.prediction, "queries": [1, 1], "keys": list(cam.shape[2:])}
            | {"weights": _bytes(cam.flatten() * 255)},
        ],
    }
    # a closing tag in a name must not end the script
    filled = json.dumps(content).replace("<", "\\u003c")
    name = html.escape(scene.name)
    page = _TEMPLATE.read_text(encoding="utf-8").replace("{{name}}", name).replace("{{scene}}", filled)
    with replacing(path) as fresh:
        fresh.write_text(page, encoding="utf-8")


def _panel(layer: Explanation) -> dict[str, Any]:
    title = {"title": layer.layer, "about": layer.kind}
    if layer.weights is None:
        assert layer.channels is not None
        channels = layer.channels[0].float()
        return title | {"channels": (channels / channels.abs().max()).tolist()}
    maps, grid = [_of_heads(layer)], [1, 1]
    if layer.kind == "attention":
        grid = [min(QUERIES, length) for length in layer.weights.shape[2:]]
        maps = [
            _of_heads(layer.at(_pixel(place, grid, layer.size)))
            for place in torch.cartesian_prod(*map(torch.arange, grid))
        ]
    return title | {
        "queries": grid,
        "keys": list(layer.weights.shape[2:]),
        "weights": _bytes(torch.stack(maps).flatten() * 255),
    }


def _pixel(place: Tensor, grid: Sequence[int], size: tuple[int, int]) -> tuple[int, int]:
    """Returns the pixel in the middle of a cell of the grid of queries."""
    row, column = ((2 * int(p) + 1) * s // (2 * n) for p, n, s in zip(place, grid, size, strict=True))
    return row, column


def _of_heads(found: Explanation) -> Tensor:
    """Returns the mean over heads, (rows, columns), each at most 1."""
    assert found.weights is not None
    return scaled(found.weights[0].float().mean(0).clamp(min=0)).cpu()


def _bytes(values: Tensor) -> str:
    return base64.b64encode(values.round().to(torch.uint8).numpy().tobytes()).decode("ascii")


def _picture(picture: Tensor) -> str:
    stream = io.BytesIO()
    Image.fromarray((picture * 255).round().to(torch.uint8).numpy()).save(stream, format="PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
