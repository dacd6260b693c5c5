"""`python -m benchmarks kernels`: checks correctness, measures times and writes the result files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from attnzoo.tools.bench.environment import device_name, environment
from attnzoo.tools.bench.report import chosen, slug, today, write
from attnzoo.tools.timing import TURNS, Budget, CudaMeter, Meter

from . import correctness, cpu, cuda, roofline
from .operators import Operator, operators

# number of random shapes for each operator and dtype
SWEEP, QUICK_SWEEP = 12, 2
# share of the time for random shapes, for which kernels may have to be compiled
SWEEP_SHARE = 0.2
ROUNDS, QUICK_ROUNDS = 15, 2
# number of rows that `quick` measures on CUDA
QUICK_ROWS = 6
FLOOR = (
    "The floor of a row is the larger of two times: the bytes of its tensors, each moved once (forward: q, k, v and "
    "the output; backward: these, the gradient of the output and three more), divided by the bandwidth; and its useful "
    "multiply-adds (two products forward, five backward, masked keys not counted), divided by the rate of matrix "
    "products in its dtype."
)


@dataclass(frozen=True)
class Settings:
    """Options of the command.

    Attributes:
        out: folder for the files.
        only: measure only rows whose name contains this.
        quick: use fewer random shapes, rounds and rows.
        seconds: time for all rows together.
        say: prints a line.
    """

    out: Path
    only: str = ""
    quick: bool = False
    seconds: float = 420
    say: Callable[[str], None] = print


def on_cpu(settings: Settings, tested: Sequence[Operator] | None = None) -> list[str]:
    """Measures operators on one thread of the CPU, and writes one file per operator.

    Args:
        settings: options of the command.
        tested: the operators; all by default.

    Returns:
        A sentence for each wrong result.

    Raises:
        ValueError: no row matches `only`.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tested = operators() if tested is None else tested
    listed = [(operator, shape) for operator in tested for shape in operator.cpu_shapes]
    listed = [listed[i] for i in chosen([f"{operator.name} {shape.name}" for operator, shape in listed], settings.only)]
    wrong = _sweep([x for x in tested if any(x is y for y, _ in listed)], (torch.float32,), cpu.CPU, settings)
    settings.say("time of ours / time of the peer: median (10th-90th percentile); below 1, ours is faster")
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
    """Measures every operator on the CUDA or ROCm device, and writes one file and a figure; otherwise like `on_cpu`."""
    from torch._functorch import config

    device = torch.device("cuda", torch.cuda.current_device())
    # the timed backward pass runs many times on one graph
    config.donated_buffer = False
    memory = torch.cuda.get_device_properties(device).total_memory
    return measure_device(settings, device, CudaMeter(device), memory)


def measure_device(
    settings: Settings, device: torch.device, meter: Meter, memory_bytes: int, roof: roofline.Roof | None = None
) -> list[str]:
    """Does the work of `on_cuda` on a given device.

    Args:
        settings: options of the command.
        device: device to measure on.
        meter: measures a call.
        memory_bytes: memory of the device; rows that would not fit are left out, and listed in the results.
        roof: rates of the device; measured by default.

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
        settings.say(f"left out, does not fit into memory: {name}")
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
        # written after every row, so that an interrupted run keeps its results
        write(path, results)
    if len(rows) < len(listed):
        settings.say(f"the time limit of {settings.seconds:.0f} s was reached; not measured:")
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
    settings.say(f"random shapes of {', '.join(x.name for x in tested)}: {done} runs, {len(wrong)} wrong")
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
        settings.say(f'no figure, it needs {missing}: pip install "attnzoo[train]"')
        return
    draw(path, device, rows)
    if path.exists():
        settings.say(f"figure written to {path}")
