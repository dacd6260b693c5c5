"""The run of `python -m benchmarks kernels`: correctness first, then times, then the files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnzoo.tools.bench.environment import device_name, environment
from attnzoo.tools.bench.report import slug, today, write
from attnzoo.tools.timing import TURNS, Budget, CudaMeter, Meter

from . import correctness, cpu, cuda, roofline
from .operators import Operator, chosen, operators

# random shapes of each operator and dtype
SWEEP, QUICK_SWEEP = 12, 2
# a share of the time, where kernels are compiled for every shape
SWEEP_SHARE = 0.2
ROUNDS, QUICK_ROUNDS = 15, 2
# rows that `quick` measures on CUDA
QUICK_ROWS = 6
FLOOR = (
    "The floor of a row is the larger of two times: its tensors read or written once (forward q, k, v, output; "
    "backward these, the output's gradient and three more) over the bandwidth, and its useful multiply-adds "
    "(two products forward, five backward, masked keys not counted) over the rate of matrix products in its dtype."
)


@dataclass(frozen=True)
class Settings:
    """What the user asks for.

    Attributes:
        out: folder of the files.
        only: rows whose name contains this.
        quick: few random shapes, few rounds or rows.
        seconds: for all rows together.
        say: takes a line of output.
    """

    out: Path
    only: str = ""
    quick: bool = False
    seconds: float = 420
    say: Callable[[str], None] = print


def on_cpu(settings: Settings) -> list[str]:
    """Measures every operator on one thread of the CPU, and writes a file for each.

    Returns:
        A sentence for each wrong result.

    Raises:
        ValueError: `only` fits no row.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tested = operators()
    listed = [(operator, shape) for operator in tested for shape in operator.cpu_shapes]
    listed = [listed[i] for i in chosen([f"{operator.name} {shape.name}" for operator, shape in listed], settings.only)]
    wrong = _sweep([x for x in tested if any(x is y for y, _ in listed)], (torch.float32,), cpu.CPU, settings)
    settings.say("ours over a peer: median (10th-90th percentile); below 1 is faster than the peer")
    for operator in tested:
        rows: list[dict[str, Any]] = []
        for shape in (shape for owner, shape in listed if owner is operator):
            for is_training in (False, True):
                share = settings.seconds / (2 * len(listed))
                try:
                    row = cpu.measure(operator, shape, is_training, QUICK_ROUNDS if settings.quick else ROUNDS, share)
                except cpu.WrongResultError as error:
                    wrong.append(str(error))
                    settings.say(f"wrong: {error}")
                    continue
                rows.append(row)
                settings.say(cpu.line(row))
        if rows:
            path = settings.out / f"{operator.name}-cpu-{today()}.json"
            notes = ["float32, one thread.", *operator.notes]
            write(path, {"date": today(), **environment(cpu.CPU), "method": TURNS, "notes": notes, "rows": rows})
            settings.say(f"written to {path}")
    return wrong


def on_cuda(settings: Settings) -> list[str]:
    """Measures every operator on the CUDA or ROCm device, in one file beside a picture; the rest is as in `on_cpu`."""
    from torch._functorch import config

    device = torch.device("cuda", torch.cuda.current_device())
    # the timed backward runs again and again on one graph
    config.donated_buffer = False
    memory = torch.cuda.get_device_properties(device).total_memory
    return measure_device(settings, device, CudaMeter(device), memory)


def measure_device(
    settings: Settings, device: torch.device, meter: Meter, memory_bytes: int, roof: roofline.Roof | None = None
) -> list[str]:
    """What `on_cuda` does, on a device of choice.

    Args:
        settings: of the user.
        device: where to measure.
        meter: how to measure.
        memory_bytes: of the device; rows that would not fit are left out, and named.
        roof: of the device; measured where it is not given.

    Returns:
        A sentence for each wrong result.
    """
    torch.manual_seed(0)
    budget = Budget(settings.seconds)
    listed, too_large = cuda.rows(operators(), memory_bytes)
    listed = [listed[i] for i in chosen([row.name for row in listed], settings.only)]
    unmeasured = [row.name for row in listed]
    listed = listed[:QUICK_ROWS] if settings.quick else listed
    for name in too_large:
        settings.say(f"left out, would not fit into memory: {name}")
    tested = list({row.operator.name: row.operator for row in listed}.values())
    wrong = _sweep(tested, cuda.DTYPES, device, settings)
    roof = roof or roofline.measured(device, list(cuda.DTYPES), meter)
    settings.say(f"roof: {roof.bytes_per_second / 1e12:.2f} TB/s, " + _rates(roof))

    rows: list[dict[str, Any]] = []
    path = settings.out / f"{slug(device_name(device))}-{today()}.json"
    found = {"left_out": too_large, "not_measured": unmeasured, "wrong": wrong, "rows": rows}
    results = _description(device, meter, roof, tested) | found
    write(path, results)
    for row in cuda.measure_all(listed, device, meter, roof, budget):
        rows.append(row)
        unmeasured.remove(row["name"])
        wrong += [f"{row['name']}: {row['wrong']}"] if row["wrong"] else []
        for line in cuda.lines(row):
            settings.say(line)
        # row by row: what was measured outlives a run that is stopped
        write(path, results)
    if len(rows) < len(listed):
        settings.say(f"the time of {settings.seconds:.0f} s was spent; not measured:")
        for left in listed[len(rows) :]:
            settings.say(f"  {left.name}")
    settings.say(f"written to {path}")
    _draw(path.with_suffix(".png"), device_name(device), rows, settings)
    return wrong


def _sweep(
    tested: Sequence[Operator], dtypes: Sequence[torch.dtype], device: torch.device, settings: Settings
) -> list[str]:
    count = QUICK_SWEEP if settings.quick else SWEEP
    done, wrong = correctness.sweep(tested, dtypes, device, count, Budget(SWEEP_SHARE * settings.seconds))
    settings.say(f"random shapes of {', '.join(x.name for x in tested)}: {done}, of these wrong: {len(wrong)}")
    for sentence in wrong:
        settings.say(f"wrong: {sentence}")
    return wrong


def _rates(roof: roofline.Roof) -> str:
    return ", ".join(f"{name} {flops / 1e12:.1f} TFLOP/s" for name, flops in roof.flops.items())


def _description(device: torch.device, meter: Meter, roof: roofline.Roof, tested: Sequence[Operator]) -> dict[str, Any]:
    return {
        "date": today(),
        **environment(device),
        "method": [meter.method, correctness.METHOD, FLOOR],
        "notes": {operator.name: list(operator.notes) for operator in tested},
        "roof": roof._asdict(),
    }


def _draw(path: Path, device: str, rows: Sequence[dict[str, Any]], settings: Settings) -> None:
    try:
        from .picture import draw
    except ModuleNotFoundError as error:
        missing = str(error.name).split(".")[0]
        settings.say(f'no picture, it needs {missing}: pip install "attnzoo[train]"')
        return
    draw(path, device, rows)
    if path.exists():
        settings.say(f"drawn in {path}")
