"""`python -m benchmarks tune`: entries of the launch tables, searched on the GPU of this machine.

For each entry, configurations are enumerated, and the kernels that the entry serves are compiled in worker processes.
Those that do not spill and fit into the shared memory run on the device, on random tensors of the shapes of the
benchmark: the fastest sum of median times is reported. Results of the kernels are not compared here; after a table has
changed, `benchmarks/gpu_checks.py` does that on the device.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from attnzoo.tools.bench.environment import environment, version
from attnzoo.tools.bench.report import reason, today, write
from attnzoo.tools.timing import Budget, CudaMeter, Meter, summary

from .operators import NamedLaunch, operators
from .static import without_interpreter

TABLES = ("intervals", "routed", "halo", "windows")
# tokens of tiles and of chunks, warps, stages
_SIZES = ((16, 32, 64, 128), (16, 32, 64), (1, 2, 4, 8), (1, 2, 3))
CANDIDATES = {"intervals": _SIZES, "routed": _SIZES, "halo": _SIZES, "windows": ((1, 2, 4, 8, 16), (1, 2, 3))}

Place = tuple[Any, ...]
Entry = tuple[int, ...]


def launches_of(place: Place, entry: Entry | None, only: str) -> list[NamedLaunch]:
    """Returns the launches of the benchmark's shapes on meta tensors, with an entry in the place of the table's."""
    from attnzoo.kernels.triton_tables import entry_at, replaced

    with replaced(place, entry or entry_at(place)):
        return [
            launch
            for operator in operators()
            for launch in operator.launches(place[1])
            if only in f"{operator.name} {launch.name}"
        ]


def served_by(place: Place, only: str) -> list[int]:
    """Returns the indices of the launches that an entry configures: those that differ with another entry."""
    from attnzoo.kernels.triton_tables import entry_at

    *sizes, warps, stages = entry_at(place)
    ours, others = (launches_of(place, entry, only) for entry in (None, (*sizes, warps, stages + 1)))
    pairs = enumerate(zip(ours, others, strict=True))
    return [index for index, (a, b) in pairs if a.launch.configuration != b.launch.configuration]


def candidates(place: Place) -> list[Entry]:
    """Returns the entries that are tried, that of the table first."""
    from attnzoo.kernels.triton_tables import entry_at

    return list(dict.fromkeys([entry_at(place), *itertools.product(*CANDIDATES[place[0]])]))


def compiles(place: Place, entry: Entry, indices: Sequence[int], only: str) -> str | None:
    """Compiles the launches of an entry; returns what speaks against it, or None."""
    from .triton_compile import LIMITS, compile_for

    found = launches_of(place, entry, only)
    for index in indices:
        launch = found[index].launch
        try:
            resources = compile_for(launch, launch.configuration, place[1])
        except Exception as error:  # the compiler's errors have no common base class
            return reason(error, -1)
        if resources.spilled_bytes or resources.stack_bytes:
            return f"{launch.kernel.__name__} spills {resources.spilled_bytes} bytes"
        if resources.shared_bytes > LIMITS[place[1]].shared_of_program:
            return f"{launch.kernel.__name__} needs {resources.shared_bytes} bytes of shared memory"
    return None


def on_device(launch: Any, device: torch.device) -> Any:
    """Returns a launch on random tensors of a device, with the shapes and strides of its meta tensors."""
    known: dict[int, Tensor] = {}

    def made(x: Any) -> Any:
        if isinstance(x, Tensor):
            if id(x) not in known:
                size = 1 + sum((length - 1) * stride for length, stride in zip(x.shape, x.stride(), strict=True))
                # indices and sums start at 0; scores and weights of random values may be any
                memory = torch.zeros(max(size, 1), dtype=x.dtype, device=device)
                if x.is_floating_point():
                    memory.normal_()
                known[id(x)] = memory.as_strided(x.shape, x.stride())
            return known[id(x)]
        if isinstance(x, tuple):
            parts = [made(part) for part in x]
            return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
        return x

    return dataclasses.replace(launch, arguments={name: made(x) for name, x in launch.arguments.items()})


def time_of(
    place: Place, entry: Entry, indices: Sequence[int], only: str, device: torch.device, meter: Meter
) -> list[float]:
    """Returns the median milliseconds of each launch of an entry."""
    found = launches_of(place, entry, only)
    launches = [on_device(found[index].launch, device) for index in indices]
    return [summary(meter.milliseconds(launch.run))["median"] for launch in launches]


def tuned(
    place: Place, only: str, jobs: int, device: torch.device, meter: Meter, pool: ProcessPoolExecutor
) -> dict[str, Any] | None:
    """Searches one entry; None if none of the shapes uses it."""
    indices = served_by(place, only)
    if not indices:
        return None
    listed = candidates(place)
    rows: list[dict[str, Any]] = []
    chunk = max(1, len(listed) // (4 * jobs))
    obstacles = pool.map(
        compiles, *zip(*[(place, entry, indices, only) for entry in listed], strict=True), chunksize=chunk
    )
    for entry, obstacle in zip(listed, obstacles, strict=True):
        row: dict[str, Any] = {"entry": entry}
        if obstacle is None:
            try:
                row["milliseconds"] = time_of(place, entry, indices, only, device, meter)
            except Exception as error:  # a launch may fail on the device
                obstacle = reason(error)
        rows.append(row if obstacle is None else {**row, "error": obstacle})
    timed = [row for row in rows if "milliseconds" in row]
    best = min(timed, key=lambda row: sum(row["milliseconds"]), default=None)
    names = [launches_of(place, None, only)[index].name for index in indices]
    return {"place": place, "launches": names, "rows": rows, "best": best and best["entry"]}


def table_lines(found: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yields a line for each entry, as it stands in the JSON file of its table, and what it gains."""
    for result in found:
        name, architecture, *keys = result["place"]
        first, best = result["rows"][0], result["best"]
        if best is None:
            yield f"{name}.json {architecture} {' '.join(map(str, keys))}: no configuration runs"
            continue
        times = {tuple(row["entry"]): sum(row["milliseconds"]) for row in result["rows"] if "milliseconds" in row}
        before = times.get(tuple(first["entry"]))
        gain = (
            "the table's does not run" if before is None else f"{times[tuple(best)] / before:.2f} of the table's time"
        )
        yield f"{name}.json {architecture} {' '.join(map(str, keys))}: {json.dumps(list(best))}  # {gain}"


def run_tune(
    only: str, tables: Sequence[str], seconds: float, jobs: int | None, out: Path, say: Callable[[str], None]
) -> None:
    """Searches the entries of the tables for the device of this machine, and writes `tune-<architecture>-<date>.json`.

    Args:
        only: text in the name of the shapes to tune for, such as "D32".
        tables: names of the tables.
        seconds: time limit; the entry in progress is finished.
        jobs: number of processes that compile; None for the number of cores.
        out: folder of the file, which is written after every entry.
        say: prints a line of output.

    Raises:
        ClickException: there is no CUDA device.
        ValueError: `only` matches no shape.
    """
    if not torch.cuda.is_available():
        raise click.ClickException("tuning times kernels on a GPU, and torch finds none")
    from attnzoo.kernels.triton_launch import architecture_of
    from attnzoo.kernels.triton_tables import places_of

    device = torch.device("cuda")
    architecture, budget, meter = architecture_of(device), Budget(seconds), CudaMeter(device)
    places = [place for name in tables for place in places_of(name, architecture)]
    jobs = jobs or os.cpu_count() or 1
    path = out / f"tune-{architecture}-{today()}.json"
    head = {"date": today(), "triton": version("triton"), **environment(device), "method": meter.method}
    found: list[dict[str, Any]] = []
    context = multiprocessing.get_context("spawn")
    with (
        without_interpreter(),
        ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        for place in places:
            if budget.is_spent:
                say(f"stopped before {' '.join(map(str, place))}: the time limit was reached")
                break
            result = tuned(place, only, jobs, device, meter, pool)
            if result is not None:
                found.append(result)
                write(path, {**head, "entries": found})
                for line in table_lines([result]):
                    say(line)
    if not found:
        raise ValueError(f"no shape of the benchmark has {only!r} in its name")
    say(f"written to {path}")
