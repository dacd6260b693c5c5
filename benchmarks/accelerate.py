"""`python -m benchmarks accelerate`: live networks of timm against what `attnzoo.accelerate` makes of them."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import timm
import torch

import attnzoo
from attnzoo.tools.bench.environment import environment
from attnzoo.tools.bench.report import today, write
from attnzoo.tools.files import read_json
from attnzoo.tools.listing import write_between

from .against import compare, line, randomize_statistics

# the smallest published size of each family
MODELS = (
    "swin_tiny_patch4_window7_224",
    "twins_pcpvt_small",
    "twins_svt_small",
    "davit_tiny",
    "swiftformer_xs",
    "mambaout_femto",
    "shvit_s1",
    "halonet26t",
)
# wanted ratios of the times by batch size
GOALS = {1: 0.75, 8: 0.6}
ROUNDS, SECONDS = 15, 15
METHOD = (
    "float32, one thread, evaluation mode without gradients, images of the published size. `timm` is a live network of "
    "timm with random weights and batch norm statistics, `ours` is `attnzoo.accelerate(network)`, `fused` is the same "
    "with `fuse=True`. Before anything is timed, all logits must agree to 2e-5 of the largest. Times are those that "
    "the processor spent on the process (time.process_time), because other processes ran beside it."
)
OPENING, CLOSING = "<!-- accelerate: written by `make table` -->", "<!-- /accelerate -->"


def run_accelerate(models: Sequence[str], quick: bool, out: Path, say: Callable[[str], None]) -> None:
    """Measures networks of timm before and after `accelerate`, and writes `accelerate-cpu-<date>.json`.

    Args:
        models: names in timm; `MODELS` if empty.
        quick: run two rounds per row.
        out: folder for the result file.
        say: prints a line.

    Raises:
        ValueError: `accelerate` does not know one of the networks.
        DifferentLogitsError: the logits differ.
    """
    torch.set_num_threads(1)
    path = out / f"accelerate-cpu-{today()}.json"
    head = {"date": today(), **environment(torch.device("cpu")), "notes": [METHOD]}
    rows = []
    for name in models or MODELS:
        torch.manual_seed(0)
        network = timm.create_model(name).eval()
        randomize_statistics(network)
        ours = attnzoo.accelerate(network)
        candidates = {"ours": ours, "fused": copy.deepcopy(ours).fuse(), "timm": network}
        for batch, goal in GOALS.items():
            images = torch.randn(batch, *network.pretrained_cfg["input_size"])
            rows.append(compare(name, candidates, images, goal, 2 if quick else ROUNDS, SECONDS, time.process_time))
            say(line(rows[-1], "timm"))
            write(path, {**head, "rows": rows})
    say(f"written to {path}")


def write_accelerate(page: Path, results: Path) -> None:
    """Writes the table of `accelerate` between the two comments of a page, `OPENING` and `CLOSING`.

    Args:
        page: a Markdown file.
        results: folder of `accelerate-cpu-<date>.json` and `timm-cpu-<date>.json`; the latest of each is read.

    Raises:
        ValueError: the page does not contain each comment exactly once.
    """
    write_between(page, OPENING, CLOSING, table(results))


def table(results: Path) -> str:
    """Returns a line per network: our time over timm's, for live networks and for our models of the same name."""
    measured = [read_json(sorted(results.glob(f"{what}-cpu-*.json"))[-1]) for what in ("accelerate", "timm")]
    columns = [(found, batch) for found in measured for batch in GOALS]
    head = ["timm's network", *(f"{found['instructions']}, batch {batch}" for found, batch in columns)]
    lines = [head, ["---"] * len(head)]
    ratios = [{row["name"]: row["ours_over"]["timm"]["median"] for row in found["rows"]} for found in measured]
    for name in MODELS:
        cells = [ratios[0].get(f"{name} B{batch}") for batch in GOALS]
        cells += [ratios[1].get(f"zoo_{name} B{batch}") for batch in GOALS]
        lines.append([f"`{name}`", *("-" if cell is None else f"{cell:.2f}" for cell in cells)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
