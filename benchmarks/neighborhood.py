"""Neighborhood attention on a CPU: the eager execution against other formulations in plain torch.

Every row is checked against the reference first, then timed, forward without gradients and forward with backward.

    python benchmarks/neighborhood.py            some ten minutes; prints a table, writes benchmarks/results/
    python benchmarks/neighborhood.py --quick    two rounds each
    python benchmarks/neighborhood.py --only 7x7
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from formulations import Formulation, dense, gather, trial
from timing import METHOD, environment, summary, take_turns
from torch import Tensor

from attnzoo.kernels import neighborhood_attention
from attnzoo.kernels.neighborhood.geometry import Axis

KERNEL, WIDTH = 7, 32
# more tokens than this make a dense mask of more than 64 MiB per head
LARGEST_DENSE_MAP = 4000
NOTES = [
    "float32, one thread, kernel 7x7, width 32, contiguous q, k, v of (B, H, W, heads, width), with a bias table; in "
    "forward+backward all four have gradients. Indices and masks are made beforehand for every candidate.",
    "Where page faults are expensive, gather at 56x56 is dominated by fresh memory: the C library returns its large "
    "blocks to the system after each call. Ratios to gather therefore depend on the machine; ratios to trial much "
    "less.",
    "trial is the recipe that eager had to beat: tiles of 7 or 8 or the whole group up to 14, one flat index_select of "
    "tokens for each of q, k, v, scaled_dot_product_attention in inference and batched products in training.",
]


@dataclass(frozen=True)
class Shape:
    """A row of the table, and the ratios to gather that the project set itself."""

    size: tuple[int, int]
    heads: int
    batch: int = 1
    dilation: int = 1
    wanted_forward: float | None = None
    wanted_training: float | None = None

    @property
    def name(self) -> str:
        """What the row is called on screen."""
        dilation = f" dilation {self.dilation}" if self.dilation > 1 else ""
        return f"{self.size[0]}x{self.size[1]} h{self.heads} B{self.batch}{dilation}"


SHAPES = [
    Shape((56, 56), 2, 1, 1, 0.05, 0.13),
    Shape((56, 56), 2, 8, 1, 0.07, 0.15),
    Shape((28, 28), 4, 1, 1, 0.11, 0.11),
    Shape((14, 14), 8, 1, 1, 0.07, 0.13),
    Shape((7, 7), 16, 1, 1, 0.03, 0.07),
    Shape((128, 128), 2, 1, 1, 0.07, 0.15),
    Shape((128, 128), 2, 1, 4, 0.07, 0.15),
    Shape((128, 128), 2, 1, 8, 0.07, 0.15),
]


def candidates(shape: Shape, is_training: bool) -> dict[str, Formulation]:
    """What runs on a shape, by name; `ours` first."""
    rows, columns = (Axis(length, KERNEL, shape.dilation) for length in shape.size)
    chosen: dict[str, Formulation] = {
        "ours": lambda q, k, v, bias: neighborhood_attention(
            q, k, v, KERNEL, dilation=shape.dilation, bias=bias, backend="eager"
        ),
        "trial": trial(rows, columns, is_training),
        "gather": gather(rows, columns),
    }
    if rows.length * columns.length <= LARGEST_DENSE_MAP:
        chosen["dense"] = dense(rows, columns)
    return chosen


def forward(function: Formulation, inputs: list[Tensor]) -> Tensor:
    """One call without gradients."""
    with torch.no_grad():
        return function(*inputs)


def training(function: Formulation, inputs: list[Tensor], grad: Tensor) -> list[Tensor]:
    """Output and the gradient of every input."""
    out = function(*inputs)
    return [out, *torch.autograd.grad(out, inputs, grad)]


def check(shape: Shape, found: list[Tensor], true: list[Tensor], name: str) -> None:
    """Nothing wrong is timed: 1e-4 of the largest entry, for the output and every gradient."""
    for what, x, y in zip(("output", "q", "k", "v", "bias"), found, true, strict=False):
        error = ((x - y).abs().max() / y.abs().max()).item()
        if not error <= 1e-4:
            raise SystemExit(f"{name} is wrong at {shape.name}: {what} differs by {error:.2g} of its largest entry")


def measure(shape: Shape, is_training: bool, rounds: int, seconds: float) -> dict[str, object]:
    """One row of the results: correctness first, then times."""
    inputs = [torch.randn(shape.batch, *shape.size, shape.heads, WIDTH, requires_grad=True) for _ in range(3)]
    inputs.append(torch.randn(shape.heads, 2 * KERNEL - 1, 2 * KERNEL - 1, requires_grad=True))
    grad = torch.randn(inputs[0].shape)
    true = training(
        lambda q, k, v, bias: neighborhood_attention(
            q, k, v, KERNEL, dilation=shape.dilation, bias=bias, backend="reference"
        ),
        inputs,
        grad,
    )
    calls: dict[str, Callable[[], object]] = {}
    for name, function in candidates(shape, is_training).items():
        if is_training:
            check(shape, training(function, inputs, grad), true, name)
            calls[name] = functools.partial(training, function, inputs, grad)
        else:
            check(shape, [forward(function, inputs)], true[:1], name)
            calls[name] = functools.partial(forward, function, inputs)
    del true
    times = take_turns(calls, rounds, seconds)
    return {
        "shape": asdict(shape) | {"kernel": KERNEL, "width": WIDTH},
        "name": shape.name,
        "direction": "forward+backward" if is_training else "forward",
        "rounds": len(times["ours"]),
        "milliseconds": {name: summary([1e3 * x for x in values]) for name, values in times.items()},
        "ours_over": {
            name: summary([ours / peer for ours, peer in zip(times["ours"], values, strict=True)])
            for name, values in times.items()
            if name != "ours"
        },
        "wanted_over_gather": shape.wanted_training if is_training else shape.wanted_forward,
    }


def line(row: dict) -> str:
    """A row on screen: ours in milliseconds, and the ratios with their spread."""
    cells = [f"{row['name']:<24} {row['direction']:<16} {row['milliseconds']['ours']['median']:>8.2f} ms"]
    for peer in ("gather", "dense", "trial"):
        ratio = row["ours_over"].get(peer)
        cells.append(f"{ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})" if ratio else f"{'-':<21}")
        if peer == "gather":
            cells.append(f"{row['wanted_over_gather'] or '-':<6}")
    return "  ".join(cells)


def main(arguments: list[str] | None = None) -> None:
    """Measures the table and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds of each row")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains this, such as 56x56")
    parser.add_argument("--rounds", type=int, default=15, help="most rounds of a row (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20, help="time for a row (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    torch.set_num_threads(1)
    shapes = [shape for shape in SHAPES if options.only in shape.name]
    if not shapes:
        parser.error(f"--only {options.only!r} fits no row: {', '.join(shape.name for shape in SHAPES)}")
    rounds = 2 if options.quick else options.rounds
    print("ours over a peer: median (10th-90th percentile); below 1 is faster than the peer")
    print(f"{'shape':<24} {'direction':<16} {'ours':>11}  {'/ gather':<21}  wanted  {'/ dense':<21}  {'/ trial':<21}")
    rows = []
    for shape in shapes:
        for is_training in (False, True):
            rows.append(measure(shape, is_training, rounds, options.seconds))
            print(line(rows[-1]), flush=True)
    date = datetime.date.today().isoformat()
    results = {"date": date, **environment(), "method": METHOD, "notes": NOTES, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"neighborhood-cpu-{date}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
