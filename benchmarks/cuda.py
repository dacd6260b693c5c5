"""The operators on a CUDA or ROCm device: time and memory of ours and its peers, compared with the card's floor."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from attnzoo.kernels import explain
from attnzoo.tools.bench.report import reason
from attnzoo.tools.timing import Budget, Meter, summary

from .correctness import Truth, check_peer, forward, gradients
from .operators import Function, Operator, Peer, Shape
from .roofline import Roof, name_of

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# memory of the eager execution, which runs on every row: copied keys and scores, in units of one map
HELD_MAPS = 48
# share of the time for peers that compile: each compilation takes seconds, and there would be hundreds
COMPILED_SHARE = 0.4
ROW_SHARE = 0.1


@dataclass(frozen=True)
class Row:
    """An operator, a shape and a dtype."""

    operator: Operator
    shape: Shape
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """Name of the row in the output."""
        image = f" {self.shape.image}px" if self.shape.image else ""
        return f"{self.operator.name} {self.shape.name}{image} {name_of(self.dtype)}"

    @property
    def held_bytes(self) -> int:
        """Estimated peak memory of measuring the row."""
        return HELD_MAPS * self.shape.entries * self.dtype.itemsize

    @property
    def rank(self) -> int:
        """Priority: rows of a lower rank are measured first (half precision, large batches, small images)."""
        image = {224: 0, 256: 0, 384: 1, 512: 2, 1024: 3}.get(self.shape.image, 4)
        return image + 2 * DTYPES.index(self.dtype) + (1 if self.shape.batch == 1 else 0)


def rows(tested: Sequence[Operator], memory_bytes: int) -> tuple[list[Row], list[str]]:
    """Returns the rows by importance, operators alternating, and the names of rows that would not fit into memory."""
    listed = [
        (index, Row(operator, shape, dtype))
        for operator in tested
        for index, (dtype, shape) in enumerate((dtype, shape) for dtype in DTYPES for shape in operator.cuda_shapes)
    ]
    ordered = [row for _, row in sorted(listed, key=lambda entry: (entry[1].rank, entry[0]))]
    held = [row for row in ordered if row.held_bytes <= 0.8 * memory_bytes]
    return held, [row.name for row in ordered if row.held_bytes > 0.8 * memory_bytes]


def measure_all(
    listed: Sequence[Row], device: torch.device, meter: Meter, roof: Roof, budget: Budget
) -> Iterator[dict[str, Any]]:
    """Measures rows until the budget is spent.

    Peers that compile get a share of the budget, and run only in bfloat16 at the largest batch.
    """
    compiling, largest = 0.0, max(row.shape.batch for row in listed)
    for row in listed:
        if budget.is_spent:
            return
        is_representative = row.dtype == torch.bfloat16 and row.shape.batch == largest
        may_compile = is_representative and compiling < COMPILED_SHARE * budget.seconds
        begin = budget.spent
        result = measure(row, device, meter, roof, Budget(ROW_SHARE * budget.seconds), may_compile)
        if any(name.startswith("compiled") for name in result["results"]):
            compiling += budget.spent - begin
        if device.type == "cuda":
            # cached blocks of this row's sizes do not fit the next row
            torch.cuda.empty_cache()
        yield result


def measure(
    row: Row, device: torch.device, meter: Meter, roof: Roof, budget: Budget, may_compile: bool = True
) -> dict[str, Any]:
    """Measures one row: ours is checked first, and not timed if it is wrong; its peers are timed all the same.

    Where Triton is chosen, it is named, so that a kernel that fails is not replaced by eager.

    Args:
        row: row to measure.
        device: device to measure on.
        meter: measures a call.
        roof: rates of the device.
        budget: time for the row; when it is spent, the remaining peers are skipped.
        may_compile: whether to run the peers that compile for each shape.
    """
    shape, operator = row.shape, row.operator
    floors = {
        direction: roof.milliseconds(shape.work(direction == "backward"), row.dtype)
        for direction in ("forward", "backward")
    }
    result: dict[str, Any] = {
        "operator": operator.name,
        "name": row.name,
        "shape": asdict(shape),
        "detail": shape.detail,
        "dtype": name_of(row.dtype),
        "queries": shape.entries // shape.width,
        "floor_milliseconds": floors,
        "wrong": None,
        "error": None,
        "results": {},
    }
    try:
        inputs = shape.inputs(row.dtype, device)
        result["ours"] = str(explain(operator.function, inputs[0]))
        truth = Truth(shape, inputs)
    except torch.OutOfMemoryError as error:
        result["error"] = reason(error)
        return result
    except Exception as error:  # the other rows are still measured
        result["wrong"] = reason(error)
        return result
    backend = "triton" if result["ours"].startswith("triton") else None
    peers = _peers(row, device, result["ours"], may_compile)
    try:
        result["wrong"] = truth.complaint(truth.of(shape.call(backend), inputs, is_training=True))
    except torch.OutOfMemoryError as error:
        result["error"] = reason(error)
    except Exception as error:  # a kernel that raises counts as wrong
        result["wrong"] = reason(error)
    if result["wrong"] is None and result["error"] is None:
        peers = {"ours": Peer(lambda: shape.call(backend)), **peers}
    for name, peer in peers.items():
        if name != "ours" and budget.is_spent:
            result["results"][name] = {"skipped": "the time for the row was spent"}
            continue
        result["results"][name] = _measured(peer, truth, inputs, meter, floors)
    return result


def _peers(row: Row, device: torch.device, ours: str, may_compile: bool) -> dict[str, Peer]:
    peers = {} if ours.startswith("eager") else {"eager": Peer(lambda: row.shape.call("eager"))}
    found = row.operator.cuda_peers(row.shape, device)
    return peers | {name: peer for name, peer in found.items() if may_compile or not name.startswith("compiled")}


def _measured(
    peer: Peer, truth: Truth, inputs: Sequence[Tensor], meter: Meter, floors: Mapping[str, float]
) -> dict[str, Any]:
    """Times, memory and ratio to the floor of one implementation, or the reason why there are none."""
    try:
        function, complaint = check_peer(truth, peer, inputs, is_training=True)
        if complaint is not None:
            return {"error": f"wrong result: {complaint}"}
        given = peer.prepare(inputs) if peer.prepare else inputs
        times = _times(function, given, meter)
    except Exception as error:  # the error of a peer is recorded
        return {"error": reason(error)}
    for direction, floor in floors.items():
        times[direction]["over_floor"] = float(f"{times[direction]['median'] / floor:.3g}")
    return times


def _times(function: Function, inputs: Sequence[Tensor], meter: Meter) -> dict[str, Any]:
    run = functools.partial(forward, function, inputs)
    upstream = torch.ones_like(run())
    return {
        "forward": summary(meter.milliseconds(run)),
        "backward": summary(meter.milliseconds(_backward(function, inputs))),
        "forward_peak_bytes": meter.peak_bytes(run),
        "training_peak_bytes": meter.peak_bytes(lambda: gradients(function, inputs, upstream)),
    }


def _backward(function: Function, inputs: Sequence[Tensor]) -> Callable[[], object]:
    """The backward pass alone, on a retained graph."""
    out = function(*inputs)
    upstream, wanted = torch.randn_like(out), [x for x in inputs if x.requires_grad]
    return lambda: torch.autograd.grad(out, wanted, upstream, retain_graph=True)


def lines(result: Mapping[str, Any]) -> Iterator[str]:
    """Formats a row: its name and floor, then one line per implementation."""
    floors = result["floor_milliseconds"]
    yield f"{result['name']}: floor {floors['forward']:.3f} ms forward, {floors['backward']:.3f} ms backward"
    if result["wrong"]:
        yield f"  WRONG, not timed: {result['wrong']}"
    if result["error"]:
        yield f"  not timed: {result['error']}"
    for name, found in result["results"].items():
        untimed = found.get("error") or found.get("skipped")
        if untimed:
            yield f"  {name:<24} {untimed}"
            continue
        cells = [
            f"{direction} {found[direction]['median']:.3f} ms ({found[direction]['over_floor']:.2f}x floor)"
            for direction in ("forward", "backward")
        ]
        memory = found["training_peak_bytes"]
        held = "" if memory is None else f"  training peak {memory / 2**20:.0f} MiB"
        yield f"  {name:<24} {'  '.join(cells)}{held}"
