"""The README's table of families, from the registry and the committed results: `python -m benchmarks families PAGE`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from timm.models import get_pretrained_cfg

from attnzoo.tools.listing import Entry, entries, write_between

OPENING, CLOSING = "<!-- families: written by `make table` -->", "<!-- /families -->"
# names of model sizes in the papers
SIZE = re.compile(r"femto|kobe|mini|tiny|small|medium|base|large|stl|x?[tsmbl]|[sblh]\d")
# a size within a word, between what comes before and after it
JOINED = re.compile(r"(.+\d)([nsmlx])(_\w+)?")
PEERS = ("official", "timm")


def write_families(page: Path, results: Path) -> None:
    """Writes the table of families between the two comments of a page, `OPENING` and `CLOSING`.

    Args:
        page: a Markdown file.
        results: folder of `official-cpu-<date>.json` and `timm-cpu-<date>.json`.

    Raises:
        ValueError: the page does not contain each comment exactly once.
    """
    write_between(page, OPENING, CLOSING, families(ratios(results)))


def ratios(results: Path) -> dict[str, tuple[float, str]]:
    """Reads the latest median ratio of our time to a peer's for one image, and the peer's name, by model."""
    found: dict[str, tuple[float, str]] = {}
    for peer in reversed(PEERS):
        for path in sorted(results.glob(f"{peer}-cpu-*.json")):
            for row in json.loads(path.read_text())["rows"]:
                name, batch = row["name"].split()
                if batch == "B1" and row["direction"] == "forward":
                    found[name] = row["ours_over"][peer]["median"], peer
    return found


def families(measured: dict[str, tuple[float, str]]) -> str:
    """Returns a line per family: its models without `_pico`, their parameters, accuracy, paper and time."""
    ours = sorted((entry for entry in entries() if not entry.name.endswith("_pico")), key=lambda entry: entry.family)
    lines = ["| family | models | parameters, M | top-1, % | paper | time |", "|---|---|---|---|---|---|"]
    for module, models in groupby(ours, key=lambda entry: entry.family):
        lines.append(f"| {' | '.join(_cells(module.removeprefix('attnzoo.'), list(models), measured))} |")
    return "\n".join(lines)


def _cells(module: str, models: Sequence[Entry], measured: dict[str, tuple[float, str]]) -> list[str]:
    config = get_pretrained_cfg(models[0].name)
    assert config is not None
    assert isinstance(config.paper_ids, str)
    number = config.paper_ids.removeprefix("arXiv:")
    times = [measured[model.name] for model in models if model.name in measured]
    return [
        f"[{module}](zoo/{module}.py)",
        _sizes(models),
        _range([model.parameters / 1e6 for model in models]),
        _range([model.published["top1"] for model in models if "top1" in model.published]),
        f"[{number}](https://arxiv.org/abs/{number})",
        f"{_range([ratio for ratio, _ in times], 2)} of {times[0][1]}" if times else "-",
    ]


def _sizes(models: Sequence[Entry]) -> str:
    """The sizes of each name, from small to large, such as `nat_*`: mini, tiny."""
    sizes: dict[str, list[str]] = {}
    for model in sorted(models, key=lambda model: model.parameters):
        pattern, size = _parts(model.name)
        sizes.setdefault(pattern, []).append(size)
    return "; ".join(
        f"`{pattern}`" + (f": {', '.join(dict.fromkeys(found))}" if any(found) else "")
        for pattern, found in sizes.items()
    )


def _parts(name: str) -> tuple[str, str]:
    """Splits a name into a pattern and the size: ("zoo_swin_*", "tiny"), or ("yolov12*_cls", "n")."""
    joined = JOINED.fullmatch(name)
    if joined:
        return f"{joined[1]}*{joined[3] or ''}", joined[2]
    words = name.split("_")
    places = [i for i, word in enumerate(words) if i > 0 and SIZE.fullmatch(word)]
    if not places:
        return name, ""
    return f"{'_'.join(words[: places[-1]])}_*", words[places[-1]]


def _range(values: Sequence[float], digits: int = 1) -> str:
    shown = dict.fromkeys(f"{value:.{digits}f}" for value in (min(values), max(values))) if values else ["-"]
    return "-".join(shown)
