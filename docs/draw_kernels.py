"""Draws docs/kernels.png from the geometry that the operators use: `python docs/draw_kernels.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from attnzoo.kernels.neighborhood.geometry import Axis, AxisTiles, cut

LENGTH, KERNEL, TILE = 16, 5, 4
MAP, REGION, WINDOW, QUERIES, ONE = "#f0f0f0", "#cfe3f5", "#5b9bd5", "#f2a65a", "#d1495b"


def cell(axes: Axes, row: int, column: int, color: str) -> None:
    """One position of the map."""
    axes.add_patch(Rectangle((column, row), 1, 1, facecolor=color, edgecolor="white", linewidth=0.8))


def outline(axes: Axes, rows: tuple[int, int], columns: tuple[int, int], color: str) -> None:
    """A frame around positions [first, last)."""
    size = columns[1] - columns[0], rows[1] - rows[0]
    axes.add_patch(Rectangle((columns[0], rows[0]), *size, fill=False, edgecolor=color, linewidth=2))


def blank_map(axes: Axes, title: str) -> None:
    """An empty map."""
    for row in range(LENGTH):
        for column in range(LENGTH):
            cell(axes, row, column, MAP)
    axes.set(xlim=(-0.3, LENGTH + 0.3), ylim=(LENGTH + 0.3, -0.3), aspect="equal")
    axes.axis("off")
    axes.set_title(title, fontsize=13, loc="left")


def positions(tiles: AxisTiles, group: int, tile: int) -> tuple[list[int], list[int]]:
    """Positions of a tile's queries and of its region's keys."""
    queries = [tiles.axis.position(group, tiles.query_rank(group, tile, slot)) for slot in range(tiles.tile)]
    keys = [tiles.strip_position(group, tile * tiles.step + slot) for slot in range(tiles.region)]
    return queries, keys


def draw_tile(
    axes: Axes, tiles: AxisTiles, tile: tuple[int, int], group: tuple[int, int], query: tuple[int, int]
) -> None:
    """A tile of queries on its region, and one query of it with its window."""
    (row_queries, row_keys), (column_queries, column_keys) = (positions(tiles, group[n], tile[n]) for n in range(2))
    row_window, column_window = (tiles.axis.neighbors(position) for position in query)
    for rows, columns, color in ((row_keys, column_keys, REGION), (row_window, column_window, WINDOW)):
        for row in rows:
            for column in columns:
                cell(axes, row, column, color)
    for row in row_queries:
        for column in column_queries:
            axes.add_patch(Rectangle((column + 0.25, row + 0.25), 0.5, 0.5, facecolor=QUERIES))
    cell(axes, *query, ONE)
    if tiles.axis.dilation == 1:
        outline(axes, (row_keys[0], row_keys[-1] + 1), (column_keys[0], column_keys[-1] + 1), "#1f4e79")


def main() -> None:
    """Three maps side by side."""
    figure, (inside, border, dilated) = plt.subplots(1, 3, figsize=(12.6, 4.9), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12)
    plain = cut(Axis(LENGTH, KERNEL), TILE)
    blank_map(inside, f"inside: {TILE}x{TILE} queries, {KERNEL}x{KERNEL} windows")
    draw_tile(inside, plain, (1, 2), (0, 0), (5, 10))
    blank_map(border, "at a border: the window is clamped")
    draw_tile(border, plain, (0, 3), (0, 0), (0, 14))
    blank_map(dilated, "dilation 2: one of the four sub-maps")
    draw_tile(dilated, cut(Axis(LENGTH, 3, dilation=2), TILE), (0, 1), (0, 1), (4, 11))
    legend = {
        "a tile's queries": QUERIES,
        "its region: all keys the tile reads": REGION,
        "one query": ONE,
        "the keys in that query's window": WINDOW,
    }
    handles = [Patch(facecolor=color, label=label) for label, color in legend.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=13)
    figure.savefig(Path(__file__).with_name("kernels.png"), dpi=100, metadata={"Software": None})


if __name__ == "__main__":
    main()
