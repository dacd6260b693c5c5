"""`attnzoo bench kernels`: the operators at the stages of their networks, the chosen execution compared with eager.

Shape legend: B batch, H W map, h heads, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnzoo.kernels import explain, halo_attention, neighborhood_attention, routed_attention, window_attention

from ..timing import Budget, CudaMeter, HostMeter, Meter, summary
from .environment import device_name, environment
from .report import chosen, reason, slug, table, today, write

HEAD = ("operator", "dtype", "execution", "direction", "ms", "(p10-p90)", "eager / chosen")
DTYPES = {"cpu": (torch.float32,), "cuda": (torch.bfloat16, torch.float32), "mps": (torch.float32,)}
# largest difference for the last image, relative to the norm of the reference
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2}
WIDTH = 32


@dataclass(frozen=True)
class Row:
    """An operator at one stage of a network.

    Attributes:
        name: name in the table.
        operator: public function.
        inputs: makes the inputs for a batch size, dtype and device; floating-point inputs require gradients.
        arguments: further arguments of the operator.
    """

    name: str
    operator: Callable[..., Tensor]
    inputs: Callable[[int, torch.dtype, torch.device], dict[str, Tensor]]
    arguments: dict[str, Any]


def rows() -> Iterator[Row]:
    """The stages of NAT-Tiny, Swin-Tiny and BiFormer-T at 224 pixels, and the attention of HaloNet-26 at 256."""
    for side, heads in ((56, 2), (28, 4), (14, 8), (7, 16)):
        yield Row(
            f"neighborhood {side}x{side} h{heads} k7",
            neighborhood_attention,
            _maps(side, heads, bias=13),
            {"kernel_size": 7},
        )
    for side, heads in ((56, 3), (28, 6), (14, 12), (7, 24)):
        shift = 3 if side > 7 else 0
        yield Row(
            f"window {side}x{side} h{heads} w7 shift {shift}",
            window_attention,
            _maps(side, heads, bias=13),
            {"window_size": 7, "shift": shift},
        )
    for side, heads, topk in ((56, 2, 1), (28, 4, 4), (14, 8, 16)):
        yield Row(
            f"routed {side}x{side} h{heads} topk {topk}",
            routed_attention,
            _maps(side, heads, topk=topk),
            {"regions": 7},
        )
    for side in (16, 8):
        yield Row(f"halo {side}x{side} h8", halo_attention, _maps(side, 8, tables=23), {"block_size": 8, "halo": 2})


def _maps(
    side: int, heads: int, bias: int = 0, topk: int = 0, tables: int = 0
) -> Callable[[int, torch.dtype, torch.device], dict[str, Tensor]]:
    def make(batch: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        # q, k and v are views of a packed projection
        qkv = torch.randn(batch, side, side, 3, heads, WIDTH, dtype=dtype, device=device).unbind(3)
        found = {name: x.detach().requires_grad_() for name, x in zip("qkv", qkv, strict=True)}
        if bias:
            found["bias"] = torch.randn(heads, bias, bias, device=device).requires_grad_()
        if topk:
            scores = torch.rand(batch, 49, 49, device=device)
            found["routes"] = scores.topk(topk, 2)[1]
        for name in ("rel_rows", "rel_columns") if tables else ():
            found[name] = torch.randn(tables, WIDTH, dtype=dtype, device=device).requires_grad_()
        return found

    return make


def run_kernels(
    device: torch.device, only: str, batch: int, seconds: float, out: Path, say: Callable[[str], None]
) -> list[str]:
    """Measures the operators, prints a table, and writes `kernels-<device>-<date>.json`.

    Args:
        device: device to run on; on a CPU, one thread.
        only: measure only rows whose name contains this text.
        batch: batch size.
        seconds: time limit for all rows; the first row is always measured.
        out: folder of the file.
        say: prints a line of output.

    Returns:
        A line for each wrong result.

    Raises:
        ValueError: `only` matches no row.
    """
    listed = list(rows())
    listed = [listed[i] for i in chosen([row.name for row in listed], only)]
    torch.manual_seed(0)
    if device.type == "cpu":
        torch.set_num_threads(1)
    meter: Meter = CudaMeter(device) if device.type == "cuda" else HostMeter(200, device)
    budget = Budget(seconds)
    path = out / f"kernels-{slug(device_name(device))}-{today()}.json"
    head = {"date": today(), **environment(device), "method": meter.method, "batch": batch}
    found: list[dict[str, Any]] = []
    for dtype in DTYPES[device.type]:
        for row in listed:
            if found and budget.is_spent:
                say(f"skipped {row.name} {dtype}: the time limit was reached")
                continue
            found += measure(row, batch, dtype, device, meter)
            write(path, {**head, "rows": found})
    for entry in (entry for entry in found if "error" in entry):
        say(f"{entry['name']} {entry['dtype']} {entry['execution']}: {entry['error']}")
    say(table(HEAD, [_cells(entry) for entry in found if "error" not in entry]))
    say(f"written to {path}")
    return [f"{entry['name']} {entry['dtype']}: {entry['error']}" for entry in found if entry.get("is_wrong")]


def measure(row: Row, batch: int, dtype: torch.dtype, device: torch.device, meter: Meter) -> list[dict[str, Any]]:
    """The results of a row for the chosen execution and eager, forward and backward, or their errors."""
    head = {"name": row.name, "dtype": str(dtype).removeprefix("torch.")}
    inputs = row.inputs(batch, dtype, device)
    selected = explain(row.operator, inputs["q"]).backend
    times: dict[str, dict[str, dict[str, float]]] = {}
    errors: list[dict[str, Any]] = []
    for backend in dict.fromkeys((selected, "eager")):
        here = {**head, "execution": backend}
        try:
            difference = _difference(row, inputs, backend)
            if not difference <= TOLERANCE[dtype]:
                errors.append({**here, "error": f"differs from the reference by {difference:.1e}", "is_wrong": True})
                continue
            times[backend] = _times(row, inputs, backend, meter)
        except Exception as error:  # a kernel may fail to start: eager is still measured
            errors.append({**here, "error": reason(error), "is_wrong": backend == selected})
    entries: list[dict[str, Any]] = [
        {**head, "execution": backend, "direction": direction, "milliseconds": of_direction}
        for backend, directions in times.items()
        for direction, of_direction in directions.items()
    ]
    for entry in entries:
        eager, ours = times.get("eager"), times.get(selected)
        direction = entry["direction"]
        if entry["execution"] == selected != "eager" and eager and ours:
            entry["eager_over_chosen"] = eager[direction]["median"] / ours[direction]["median"]
    return errors + entries


def _difference(row: Row, inputs: dict[str, Tensor], backend: str) -> float:
    """Difference for the last image to the reference in float64, relative to its norm."""
    last = {name: x[-1:] if x.ndim == 5 or name == "routes" else x for name, x in inputs.items()}
    # Apple's GPUs have no float64
    place = "cpu" if inputs["q"].device.type == "mps" else inputs["q"].device
    exact = {name: x.detach().to(place, torch.float64 if x.is_floating_point() else None) for name, x in last.items()}
    with torch.no_grad():
        true = row.operator(**exact, **row.arguments, backend="reference")
        ours = row.operator(**inputs, **row.arguments, backend=backend)[-1:]
    return float((ours.to(place, torch.float64) - true).norm() / true.norm())


def _times(row: Row, inputs: dict[str, Tensor], backend: str, meter: Meter) -> dict[str, dict[str, float]]:
    def forward() -> Tensor:
        with torch.no_grad():
            return row.operator(**inputs, **row.arguments, backend=backend)

    out = row.operator(**inputs, **row.arguments, backend=backend)
    upstream, wanted = torch.randn_like(out), [x for x in inputs.values() if x.requires_grad]

    def backward() -> object:
        return torch.autograd.grad(out, wanted, upstream, retain_graph=True)

    return {
        "forward": summary(meter.milliseconds(forward)),
        "backward": summary(meter.milliseconds(backward)),
    }


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    times, ratio = entry["milliseconds"], entry.get("eager_over_chosen")
    return (
        entry["name"],
        entry["dtype"],
        entry["execution"],
        entry["direction"],
        f"{times['median']:.3f}",
        f"({times['p10']:.3f}-{times['p90']:.3f})",
        "-" if ratio is None else f"{ratio:.2f}",
    )
