"""`python -m benchmarks static`: resources that every compiled kernel uses, for GPUs that need not be present.

Every launch of every operator is compiled in the configuration of its launch table, in worker processes. Resources are
reported, not times. The occupancy is estimated from registers, shared memory and warps. The floor is computed for a
named card from its data sheet.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch

from attnzoo.tools.bench.environment import version
from attnzoo.tools.bench.report import chosen, reason, table, today, write

from .operators import NamedLaunch, Operator, operators
from .roofline import CARDS, name_of

HEAD = (
    "kernel", "shape", "arch", "dtype", "warps", "stages", "registers", "spilled", "shared", "limit", "matrix unit",
    "occupancy", "loop", "per score", "issue ms", "floor ms", "constants",
)  # fmt: skip

# number of compilations between two progress lines
REPORTED = 50


class Task(NamedTuple):
    """One compilation: a launch, given by its index in its operator's list.

    Launches hold kernels and tensors, which cannot be pickled; the function that makes them can.
    """

    launches: Callable[[str], list[NamedLaunch]]
    architecture: str
    launch: int
    name: str


def tasks(tested: Sequence[Operator], architectures: Sequence[str], only: str) -> list[Task]:
    """Returns a task for every launch of the operators.

    Raises:
        ValueError: there are no launches, or none matches `only`.
    """
    found = [
        Task(operator.launches, architecture, index, f"{operator.name} {launch.name}")
        for architecture in architectures
        for operator in tested
        for index, launch in enumerate(operator.launches(architecture))
    ]
    if not found:
        raise ValueError("nothing to compile: the operators have no Triton kernels")
    return [found[i] for i in chosen([task.name for task in found], only)]


def row(task: Task) -> dict[str, Any]:
    """Compiles one launch, and returns a row of the table; with an error instead of resources if compiling fails."""
    from .machine_code import LANES, issue_milliseconds
    from .triton_compile import LIMITS, compile_for, occupancy

    named = task.launches(task.architecture)[task.launch]
    launch, (card, roof) = named.launch, CARDS[task.architecture]
    configuration = launch.configuration
    found: dict[str, Any] = {
        "kernel": launch.kernel.__name__,
        "shape": task.name,
        "architecture": task.architecture,
        "dtype": name_of(named.dtype),
        "constants": dict(configuration.constants),
        "warps": configuration.num_warps,
        "stages": configuration.num_stages,
        "shared_limit_bytes": LIMITS[task.architecture].shared_of_program,
        "card": card,
        "floor_milliseconds": roof.milliseconds(named.work, named.dtype) if named.work else None,
    }
    try:
        resources = compile_for(launch, configuration, task.architecture)
    except Exception as error:  # the compiler's errors have no common base class
        return found | {"error": reason(error, -1)}
    warps = configuration.num_warps
    found |= resources._asdict() | {"occupancy": occupancy(resources, warps, task.architecture)}
    code = resources.instructions
    if code is None:
        return found
    found |= {"instructions": code._asdict(), "trips": list(named.trips)}
    if named.pairs:
        found["instructions_per_score"] = code.inner * warps * LANES / named.pairs
    # the clock and the multiprocessors are those of one card
    if named.trips and task.architecture == "sm90":
        programs = launch.grid(configuration.constants)
        found["issue_milliseconds"] = issue_milliseconds(code.executed(named.trips), warps, programs)
    return found


def rows(listed: Sequence[Task], jobs: int | None = None) -> Iterator[dict[str, Any]]:
    """Compiles tasks in worker processes, and yields their rows as they finish."""
    context = multiprocessing.get_context("spawn")
    jobs = min(jobs or os.cpu_count() or 1, len(listed))
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        with without_interpreter():
            futures = [pool.submit(row, task) for task in listed]
        for future in as_completed(futures):
            yield future.result()


@contextmanager
def without_interpreter() -> Iterator[None]:
    """Starts worker processes without Triton's interpreter, whose kernels cannot be compiled."""
    interpret = os.environ.pop("TRITON_INTERPRET", None)
    try:
        yield
    finally:
        if interpret is not None:
            os.environ["TRITON_INTERPRET"] = interpret


def cells(found: dict[str, Any]) -> tuple[str, ...]:
    """Formats a row as cells of the table."""
    constants = " ".join(f"{name}={value}" for name, value in found["constants"].items())
    floor = "-" if found["floor_milliseconds"] is None else f"{found['floor_milliseconds']:.4f}"
    head = [str(found[name]) for name in ("kernel", "shape", "architecture", "dtype", "warps", "stages")]
    if "error" in found:
        return (*head, *("-" * 9), floor, found["error"])
    spilled = str(found["spilled_bytes"]) + (f" +{found['spilled_scalars']}s" if found["spilled_scalars"] else "")
    shared = str(found["shared_bytes"]), str(found["shared_limit_bytes"])
    return (
        *head,
        str(found["registers"]),
        spilled,
        *shared,
        found["matrix_unit"] or "-",
        f"{found['occupancy']:.2f}",
        str(found["instructions"]["inner"]) if found["instructions"] else "-",
        f"{found['instructions_per_score']:.1f}" if "instructions_per_score" in found else "-",
        f"{found['issue_milliseconds']:.4f}" if "issue_milliseconds" in found else "-",
        floor,
        constants,
    )


def faults(found: Sequence[dict[str, Any]]) -> list[str]:
    """Describes the rows that do not compile, spill, or need too much shared memory."""
    said = []
    for entry in found:
        name = f"{entry['kernel']} {entry['shape']} {entry['dtype']} on {entry['architecture']}"
        if "error" in entry:
            said.append(f"{name}: {entry['error']}")
        elif entry["spilled_bytes"]:
            said.append(f"{name} spills {entry['spilled_bytes']} bytes")
        elif entry["shared_bytes"] > entry["shared_limit_bytes"]:
            said.append(f"{name} needs {entry['shared_bytes']} bytes of shared memory")
    return said


def run_static(
    architectures: Sequence[str], jobs: int | None, only: str, out: Path, say: Callable[[str], None]
) -> None:
    """Compiles the kernels, prints a table, and writes `static-<triton version>.json`.

    Raises:
        ClickException: Triton is not installed, or a row has a fault.
        ValueError: there is nothing to compile, or no row matches `only`.
    """
    if importlib.util.find_spec("triton") is None:
        raise click.ClickException("the static benchmark needs Triton: pip install triton (Linux only)")
    listed = tasks(operators(), architectures, only)
    say(f"compiling {len(listed)} kernels")
    found = []
    for entry in rows(listed, jobs):
        found.append(entry)
        for fault in faults([entry]):
            say(f"fault: {fault}")
        if len(found) % REPORTED == 0:
            say(f"{len(found)} of {len(listed)} compiled")
    found.sort(key=lambda entry: tuple(map(str, cells(entry))))
    say(table(HEAD, [cells(entry) for entry in found]))
    cards = {name: {"card": card, **roof._asdict()} for name, (card, roof) in CARDS.items()}
    path = out / f"static-{version('triton')}.json"
    write(
        path, {"date": today(), "triton": version("triton"), "torch": torch.__version__, "cards": cards, "rows": found}
    )
    say(f"written to {path}")
    wrong = faults(found)
    if wrong:
        raise click.ClickException(f"{len(wrong)} of {len(found)} kernels have a fault, the first: {wrong[0]}")
