"""A result file as the Markdown table of docs/kernels.md: `python benchmarks/result_table.py FILE.json`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HEAD = (
    "| map, heads, batch | direction | ours / gather | set goal | ours / dense | ours / trial |",
    "|---|---|---|---|---|---|",
)


def table(results: dict[str, Any]) -> str:
    """One line per row: medians, with the 10th to 90th percentile."""
    return "\n".join((*HEAD, *map(_line, results["rows"])))


def _line(row: dict[str, Any]) -> str:
    gather, dense, trial = (_ratio(row["ours_over"].get(peer)) for peer in ("gather", "dense", "trial"))
    return f"| {row['name']} | {row['direction']} | {gather} | {row['wanted_over_gather']} | {dense} | {trial} |"


def _ratio(ratio: dict[str, float] | None) -> str:
    return f"{ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})" if ratio else "-"


if __name__ == "__main__":
    print(table(json.loads(Path(sys.argv[1]).read_text())))
