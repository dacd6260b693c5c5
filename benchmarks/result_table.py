"""The Markdown table of a result file measured on a CPU: `python -m benchmarks table FILE`."""

from __future__ import annotations

from typing import Any


def table(results: dict[str, Any]) -> str:
    """Formats the rows as medians with 10th to 90th percentiles; the peer that the targets refer to comes first."""
    rows = results["rows"]
    if "columns" in results:
        return _as_they_are(results["columns"], rows)
    goal = next(key for key in rows[0] if key.startswith("wanted_over_"))
    first = goal.removeprefix("wanted_over_")
    others = sorted({peer for row in rows for peer in row["ours_over"]} - {first})
    is_network = "fused_over" in rows[0]
    what = "model, batch" if is_network else "map, heads, batch"
    head = [what, "direction", f"ours / {first}", "target", *(f"ours / {peer}" for peer in others)]
    head += ["fused / ours"] if is_network else []
    cells = [
        [
            row["name"],
            row["direction"],
            _ratio(row["ours_over"], first),
            str(row[goal]),
            *(_ratio(row["ours_over"], peer) for peer in others),
            *([_ratio(row["fused_over"], "ours")] if is_network else []),
        ]
        for row in rows
    ]
    return "\n".join([_line(head), "|" + "---|" * len(head), *map(_line, cells)])


def _as_they_are(columns: dict[str, str], rows: list[dict[str, Any]]) -> str:
    """Formats the columns that the result file names, by key."""
    cells = [[_cell(row[key]) for key in columns] for row in rows]
    return "\n".join([_line(list(columns.values())), "|" + "---|" * len(columns), *map(_line, cells)])


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['median']:.4g} ({value['p10']:.4g}-{value['p90']:.4g})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _ratio(ratios: dict[str, Any], peer: str) -> str:
    ratio = ratios.get(peer)
    return f"{ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})" if ratio else "-"
