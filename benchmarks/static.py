"""`python -m benchmarks static`: what the compiler makes of every kernel, for machines that are not here.

Every launch of every operator is compiled in processes of their own, in the configuration of its table; what is told
are resources, not times. The estimated occupancy is what registers, shared memory and warps allow; the floor is of a
named card, from its data sheet.
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
from attnzoo.tools.bench.report import reason, table, today, write

from .operators import NamedLaunch, Operator, chosen, operators
from .roofline import CARDS, name_of

HEAD = (
    "kernel", "shape", "arch", "dtype", "warps", "stages", "registers", "spilled", "shared", "limit", "matrix unit",
    "occupancy", "floor ms", "constants",
)  # fmt: skip

# compilations between two lines of progress
REPORTED = 50


class Task(NamedTuple):
    """One compilation: a launch by its place in its operator's list, in the configuration of its table.

    Launches hold kernels and tensors, which do not travel between processes; the function that makes them does.
    """

    launches: Callable[[str], list[NamedLaunch]]
    architecture: str
    launch: int
    name: str


def tasks(tested: Sequence[Operator], architectures: Sequence[str], only: str) -> list[Task]:
    """Every launch of the operators.

    Raises:
        ValueError: there are none, or `only` fits none.
    """
    found = [
        Task(operator.launches, architecture, index, f"{operator.name} {launch.name}")
        for architecture in architectures
        for operator in tested
        for index, launch in enumerate(operator.launches(architecture))
    ]
    if not found:
        raise ValueError("there is nothing to compile: no operator has a Triton kernel in this version")
    return [found[i] for i in chosen([task.name for task in found], only)]


def row(task: Task) -> dict[str, Any]:
    """Compiles one launch: a row of the table, with an error in the place of resources where the compiler refuses."""
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
    except Exception as error:  # the compiler's own errors have no common base
        return found | {"error": reason(error, -1)}
    warps = configuration.num_warps
    return found | resources._asdict() | {"occupancy": occupancy(resources, warps, task.architecture)}


def rows(listed: Sequence[Task], jobs: int | None = None) -> Iterator[dict[str, Any]]:
    """Compiles tasks in processes, and yields their rows as they come."""
    context = multiprocessing.get_context("spawn")
    jobs = min(jobs or os.cpu_count() or 1, len(listed))
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        with _without_interpreter():
            futures = [pool.submit(row, task) for task in listed]
        for future in as_completed(futures):
            yield future.result()


@contextmanager
def _without_interpreter() -> Iterator[None]:
    """Processes that start here compile: where Triton interprets, kernels are not what a compiler takes."""
    interpret = os.environ.pop("TRITON_INTERPRET", None)
    try:
        yield
    finally:
        if interpret is not None:
            os.environ["TRITON_INTERPRET"] = interpret


def cells(found: dict[str, Any]) -> tuple[str, ...]:
    """A row on screen."""
    constants = " ".join(f"{name}={value}" for name, value in found["constants"].items())
    floor = "-" if found["floor_milliseconds"] is None else f"{found['floor_milliseconds']:.4f}"
    head = [str(found[name]) for name in ("kernel", "shape", "architecture", "dtype", "warps", "stages")]
    if "error" in found:
        return (*head, *("-" * 6), floor, found["error"])
    spilled = str(found["spilled_bytes"]) + (f" +{found['spilled_scalars']}s" if found["spilled_scalars"] else "")
    shared = str(found["shared_bytes"]), str(found["shared_limit_bytes"])
    return (
        *head,
        str(found["registers"]),
        spilled,
        *shared,
        found["matrix_unit"] or "-",
        f"{found['occupancy']:.2f}",
        floor,
        constants,
    )


def faults(found: Sequence[dict[str, Any]]) -> list[str]:
    """Rows that do not compile, spill, or need more shared memory than there is."""
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
    """Compiles, prints the table, and writes `static-<triton version>.json`.

    Raises:
        ClickException: Triton is not installed, there is nothing to compile, or a row has a fault.
        ValueError: `only` fits no row.
    """
    if importlib.util.find_spec("triton") is None:
        raise click.ClickException("the static benchmark needs Triton: pip install triton, on Linux")
    listed = tasks(operators(), architectures, only)
    say(f"compiling {len(listed)} kernels")
    found = []
    for entry in rows(listed, jobs):
        found.append(entry)
        for fault in faults([entry]):
            say(f"fault: {fault}")
        if len(found) % REPORTED == 0:
            say(f"{len(found)} of {len(listed)}")
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
        raise click.ClickException(f"{len(wrong)} of {len(found)} have a fault, the first: {wrong[0]}")
