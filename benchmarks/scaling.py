"""`python -m benchmarks scaling`: time and memory of the operators over resolution, and the number of operations.

Shape legend: B batch, H W map, h heads, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from attnzoo.tools.bench.environment import environment
from attnzoo.tools.bench.report import plain, table, today, write
from attnzoo.tools.timing import HostMeter, peak_bytes, summary

from .neighborhood import NeighborhoodShape
from .operators import Function, Shape
from .routed import RoutedShape
from .window import WindowShape

# first stage of a network: one position of its map is 4 x 4 pixels of the image
STRIDE = 4
CPU = torch.device("cpu")
IMAGES = (224, 448, 896)
SHAPES: dict[str, Shape] = {
    "window": WindowShape(size=(56, 56), heads=2),
    "neighborhood": NeighborhoodShape(size=(56, 56), heads=2),
    "routed": RoutedShape(size=(56, 56), heads=2),
}
# columns of the result file, and of the table made from it
COLUMNS = {
    "operator": "operator",
    "image": "image",
    "keys": "keys of a query",
    "forward_multiply_adds": "multiply-adds forward",
    "forward_ms": "forward ms",
    "forward_ns_per_kilo": "ns per 1000 multiply-adds",
    "training_ms": "forward + backward ms",
    "map_mib": "MiB of q, k, v, output",
    "forward_mib": "forward, peak MiB",
    "training_mib": "forward + backward, peak MiB",
}
NOTES = [
    "One image, 2 heads of width 32, float32, one thread. Formula: each pair of a query and a key costs 2 x D "
    "multiply-adds per head in the forward pass. A window or neighborhood of 7 x 7 has 49 keys at any size. A query "
    "sees 4 of 7 x 7 regions, so the number of its keys grows with the image. Peak MiB is the peak memory of torch's "
    "allocator above the level before the call, without inputs (torch.profiler).",
]


def run_scaling(images: Sequence[int], quick: bool, out: Path, say: Callable[[str], None]) -> None:
    """Measures on one thread of the CPU, prints a table, and writes `scaling-cpu-<date>.json`.

    Args:
        images: sides of the images, multiples of 28.
        quick: spend less time per row.
        out: folder for the result file.
        say: prints a line.

    Raises:
        ValueError: a side is not a multiple of 28.
    """
    for side in images:
        if side % (7 * STRIDE):
            raise ValueError(f"--image-size must be a multiple of {7 * STRIDE}, for whole windows, got {side}")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    meter = HostMeter(50 if quick else 2000)
    path = out / f"scaling-cpu-{today()}.json"
    head = {"date": today(), **environment(torch.device("cpu")), "method": meter.method, "notes": NOTES}
    rows: list[dict[str, Any]] = []
    for row in _measure(images, meter):
        rows.append(row)
        write(path, {**head, "columns": COLUMNS, "rows": rows})
    cells = [tuple(plain(row[key]) for key in COLUMNS) for row in rows]
    say(table(tuple(COLUMNS.values()), cells))
    say(f"written to {path}")


def _measure(images: Sequence[int], meter: HostMeter) -> Iterator[dict[str, Any]]:
    for name, smallest in SHAPES.items():
        for side in images:
            shape = replace(smallest, size=(side // STRIDE, side // STRIDE))
            forward, training = _calls(shape)
            times, work = meter.milliseconds(forward), shape.work(is_backward=False)
            yield {
                "operator": name,
                "image": side,
                "keys": shape.keys,
                "forward_multiply_adds": float(work.multiply_adds),
                "forward_ms": summary(times),
                "forward_ns_per_kilo": summary([1e9 * time / work.multiply_adds for time in times]),
                "training_ms": summary(meter.milliseconds(training)),
                "map_mib": round(4 * work.entries / 2**20, 1),
                "forward_mib": round(peak_bytes(forward, CPU) / 2**20, 1),
                "training_mib": round(peak_bytes(training, CPU) / 2**20, 1),
            }


def _calls(shape: Shape) -> tuple[Callable[[], object], Callable[[], object]]:
    inputs = shape.inputs(torch.float32, torch.device("cpu"))
    function = shape.call(None)
    return functools.partial(_forward, function, inputs), functools.partial(_train, function, inputs)


def _forward(function: Function, inputs: Sequence[torch.Tensor]) -> None:
    with torch.no_grad():
        function(*inputs)


def _train(function: Function, inputs: Sequence[torch.Tensor]) -> None:
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    torch.autograd.grad(function(*inputs).sum(), wanted)
