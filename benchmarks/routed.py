"""Routed attention on a CPU: the eager execution against the official formulation, at BiFormer's stages.

Every row is checked against the reference first, then timed, forward without gradients and forward with backward.

    python benchmarks/routed.py            some five minutes; prints a table, writes benchmarks/results/
    python benchmarks/routed.py --quick    two rounds each
    python benchmarks/routed.py --only 14x14
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
import torch.nn.functional as F
from timing import METHOD, environment, summary, take_turns
from torch import Tensor

from attnzoo.kernels import routed_attention

REGIONS, WIDTH = 7, 32
WANTED_FORWARD, WANTED_TRAINING = 0.5, 0.3
# more tokens than this make scores of the whole map of more than 64 MiB per head
LARGEST_DENSE_MAP = 4000
NOTES = [
    "float32, one thread, 7x7 regions, width 32, contiguous q, k, v of (B, H, W, heads, width); random routes "
    "that are given. The first three maps are BiFormer-T's routed stages at 224 pixels, the others those at 448.",
    "gather is the official formulation: keys and values expanded to (B, regions, regions, tokens, channels), "
    "torch.gather with the expanded routes, two batched products and a softmax.",
    "select copies the same regions as rows with one index_select over the batch, and calls "
    "scaled_dot_product_attention; dense calls it for the whole map, under a mask that is made within the call.",
    "Where page faults are expensive, gather spends its time on fresh memory; ratios to it depend on the machine.",
]

Formulation = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """A row of the table."""

    size: tuple[int, int]
    heads: int
    topk: int
    batch: int = 1

    @property
    def name(self) -> str:
        """What the row is called on screen."""
        return f"{self.size[0]}x{self.size[1]} h{self.heads} top {self.topk} B{self.batch}"


_STAGES = ((56, 2, 1), (28, 4, 4), (14, 8, 16), (112, 2, 1), (56, 4, 4), (28, 8, 16))
SHAPES = [Shape((side, side), heads, topk, batch) for batch in (1, 8) for side, heads, topk in _STAGES]


def candidates(shape: Shape, is_training: bool) -> dict[str, Formulation]:
    """What runs on a shape, by name; `ours` first. All take q, k, v and routes."""
    chosen: dict[str, Formulation] = {
        "ours": lambda q, k, v, routes: routed_attention(q, k, v, routes, REGIONS, backend="eager"),
        "select": select,
        "gather": gather,
    }
    if shape.size[0] * shape.size[1] <= LARGEST_DENSE_MAP:
        chosen["dense"] = dense
    return chosen


def gather(q: Tensor, k: Tensor, v: Tensor, routes: Tensor) -> Tensor:
    """BiFormer's own: a gather from keys and values that are expanded by the number of regions."""
    heads, size = q.shape[3], q.shape[1:3]
    # (B, P, R, h * D)
    q, k, v = (_regions(x).flatten(3) for x in (q, k, v))
    kv = torch.cat([k, v], -1)
    regions, tokens, channels = kv.shape[1:]
    index = routes[..., None, None].expand(-1, -1, -1, tokens, channels)
    taken = torch.gather(kv.unsqueeze(1).expand(-1, regions, -1, -1, -1), 2, index)
    keys, values = taken.split([k.shape[3], v.shape[3]], -1)
    # (B * P, h, D, t * R), (B * P, h, t * R, D), (B * P, h, R, D)
    keys = keys.flatten(0, 1).flatten(1, 2).unflatten(2, (heads, -1)).permute(0, 2, 3, 1)
    values = values.flatten(0, 1).flatten(1, 2).unflatten(2, (heads, -1)).transpose(1, 2)
    queries = q.flatten(0, 1).unflatten(2, (heads, -1)).transpose(1, 2)
    out = ((queries * queries.shape[-1] ** -0.5) @ keys).softmax(-1) @ values
    return _map(out.transpose(1, 2).unflatten(0, (-1, regions)), size)


def select(q: Tensor, k: Tensor, v: Tensor, routes: Tensor) -> Tensor:
    """Regions as rows of memory: one index_select of long rows over the batch, and fused attention."""
    heads, size = q.shape[3], q.shape[1:3]
    # (B, h, P, R, D)
    q, k, v = (_regions(x).permute(0, 3, 1, 2, 4).contiguous() for x in (q, k, v))
    batch, _, regions = q.shape[:3]
    first = torch.arange(batch * heads).view(batch, heads, 1) * regions
    rows = (first + routes.flatten(1).unsqueeze(1)).flatten()
    keys, values = (
        x.flatten(0, 2).flatten(1).index_select(0, rows).view(batch, heads * regions, -1, x.shape[4]) for x in (k, v)
    )
    out = F.scaled_dot_product_attention(q.flatten(1, 2), keys, values).unflatten(1, (heads, -1))
    return _map(out.permute(0, 2, 3, 1, 4), size)


def dense(q: Tensor, k: Tensor, v: Tensor, routes: Tensor) -> Tensor:
    """The whole map attends to itself under a mask of regions."""
    height, width = q.shape[1:3]
    region = (torch.arange(height) // (height // REGIONS) * REGIONS)[:, None] + torch.arange(width) // (
        width // REGIONS
    )
    attends = torch.zeros(len(q), REGIONS**2, REGIONS**2, dtype=torch.bool).scatter(2, routes, True)
    mask = attends[:, region.flatten()][:, :, region.flatten()].unsqueeze(1)
    q, k, v = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).unflatten(1, (height, width))


def _regions(x: Tensor) -> Tensor:
    """(B, H, W, h, D) -> (B, P, R, h, D)."""
    x = x.unflatten(2, (REGIONS, -1)).unflatten(1, (REGIONS, -1))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def _map(x: Tensor, size: torch.Size) -> Tensor:
    """(B, P, R, h, D) -> (B, H, W, h, D)."""
    x = x.unflatten(2, (size[0] // REGIONS, -1)).unflatten(1, (REGIONS, -1))
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def forward(function: Formulation, inputs: list[Tensor], routes: Tensor) -> Tensor:
    """One call without gradients."""
    with torch.no_grad():
        return function(*inputs, routes)


def training(function: Formulation, inputs: list[Tensor], routes: Tensor, grad: Tensor) -> list[Tensor]:
    """Output and the gradient of every input."""
    out = function(*inputs, routes)
    return [out, *torch.autograd.grad(out, inputs, grad)]


def check(shape: Shape, found: list[Tensor], true: list[Tensor], name: str) -> None:
    """Nothing wrong is timed: 1e-4 of the largest entry, for the output and every gradient."""
    for what, x, y in zip(("output", "q", "k", "v"), found, true, strict=False):
        error = ((x - y).abs().max() / y.abs().max()).item()
        if not error <= 1e-4:
            raise SystemExit(f"{name} is wrong at {shape.name}: {what} differs by {error:.2g} of its largest entry")


def measure(shape: Shape, is_training: bool, rounds: int, seconds: float) -> dict[str, object]:
    """One row of the results: correctness first, then times."""
    inputs = [torch.randn(shape.batch, *shape.size, shape.heads, WIDTH, requires_grad=True) for _ in range(3)]
    routes = torch.rand(shape.batch, REGIONS**2, REGIONS**2).topk(shape.topk).indices
    grad = torch.randn(inputs[0].shape)
    true = training(
        lambda q, k, v, routes: routed_attention(q, k, v, routes, REGIONS, backend="reference"), inputs, routes, grad
    )
    calls: dict[str, Callable[[], object]] = {}
    for name, function in candidates(shape, is_training).items():
        if is_training:
            check(shape, training(function, inputs, routes, grad), true, name)
            calls[name] = functools.partial(training, function, inputs, routes, grad)
        else:
            check(shape, [forward(function, inputs, routes)], true[:1], name)
            calls[name] = functools.partial(forward, function, inputs, routes)
    del true
    times = take_turns(calls, rounds, seconds)
    return {
        "shape": asdict(shape) | {"regions": REGIONS, "width": WIDTH},
        "name": shape.name,
        "direction": "forward+backward" if is_training else "forward",
        "rounds": len(times["ours"]),
        "milliseconds": {name: summary([1e3 * x for x in values]) for name, values in times.items()},
        "ours_over": {
            name: summary([ours / peer for ours, peer in zip(times["ours"], values, strict=True)])
            for name, values in times.items()
            if name != "ours"
        },
        "wanted_over_gather": WANTED_TRAINING if is_training else WANTED_FORWARD,
    }


def line(row: dict) -> str:
    """A row on screen: ours in milliseconds, and the ratios with their spread."""
    cells = [f"{row['name']:<24} {row['direction']:<16} {row['milliseconds']['ours']['median']:>8.2f} ms"]
    for peer in ("gather", "select", "dense"):
        ratio = row["ours_over"].get(peer)
        cells.append(f"{ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})" if ratio else f"{'-':<21}")
        if peer == "gather":
            cells.append(f"{row['wanted_over_gather']:<6}")
    return "  ".join(cells)


def main(arguments: list[str] | None = None) -> None:
    """Measures the table and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds of each row")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains this, such as 56x56")
    parser.add_argument("--rounds", type=int, default=15, help="most rounds of a row (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="time for a row (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    torch.set_num_threads(1)
    shapes = [shape for shape in SHAPES if options.only in shape.name]
    if not shapes:
        parser.error(f"--only {options.only!r} fits no row: {', '.join(shape.name for shape in SHAPES)}")
    rounds = 2 if options.quick else options.rounds
    print("ours over a peer: median (10th-90th percentile); below 1 is faster than the peer")
    print(f"{'shape':<24} {'direction':<16} {'ours':>11}  {'/ gather':<21}  wanted  {'/ select':<21}  {'/ dense':<21}")
    rows = []
    for shape in shapes:
        for is_training in (False, True):
            rows.append(measure(shape, is_training, rounds, options.seconds))
            print(line(rows[-1]), flush=True)
    date = datetime.date.today().isoformat()
    results = {"date": date, **environment(), "method": METHOD, "notes": NOTES, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"routed-cpu-{date}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
