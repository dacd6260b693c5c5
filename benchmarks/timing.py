"""Timing on a shared, noisy machine: candidates take turns, and only ratios within one turn are compared."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

METHOD = (
    "Candidates take turns in rounds, in an order that rotates. In its turn a candidate runs untimed first, so that "
    "caches and allocator are its own, then timed; its time of the round is the median of the timed calls. A ratio is "
    "taken within a round; reported are median, 10th and 90th percentile over the rounds."
)


def take_turns(candidates: dict[str, Callable[[], object]], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Times candidates against each other.

    Args:
        candidates: what to call, by name.
        rounds: most rounds.
        seconds: time after which no further round begins, but there are always two.

    Returns:
        Seconds per call of every round, by name.
    """
    names = list(candidates)
    # the first call of anything pays for caches and compilation
    calls = {name: _calls(_seconds(candidates[name], 2)) for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    begin = time.perf_counter()
    for turn in range(rounds):
        if turn >= 2 and time.perf_counter() - begin > seconds:
            break
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            untimed, timed = calls[name]
            for _ in range(untimed):
                candidates[name]()
            times[name].append(statistics.median(_seconds(candidates[name]) for _ in range(timed)))
    return times


def summary(values: list[float]) -> dict[str, float]:
    """Median and spread."""
    ordered = torch.tensor(values, dtype=torch.float64)
    median, p10, p90 = (float(f"{ordered.quantile(q).item():.4g}") for q in (0.5, 0.1, 0.9))
    return {"median": median, "p10": p10, "p90": p90}


def environment() -> dict[str, object]:
    """The machine and the versions that a measurement depends on."""
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": platform.system(),
        # what else the machine was doing: above its cores, spreads widen
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _seconds(function: Callable[[], object], calls: int = 1) -> float:
    """Time of the last of some calls."""
    for _ in range(calls):
        begin = time.perf_counter()
        function()
        elapsed = time.perf_counter() - begin
    return elapsed


def _calls(seconds: float) -> tuple[int, int]:
    """Untimed and timed calls of a turn: some 50 ms of each, and for what takes longer one call."""
    count = max(1, min(10, int(0.05 / seconds)))
    return min(count, 3), count


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
