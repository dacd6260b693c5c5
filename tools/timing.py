"""Timing: interleaved rounds on a noisy CPU, where only ratios within a round are compared; CUDA events on a GPU."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity, profile

TURNS = (
    "Candidates take turns in rounds, in rotating order. In each turn a candidate first runs untimed, to warm up "
    "caches and allocator, and is then timed; its time of the round is the median of the timed calls. Ratios are taken "
    "within a round. The median and the 10th and 90th percentile over the rounds are reported."
)


def take_turns(
    candidates: dict[str, Callable[[], object]],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times candidates in interleaved rounds.

    Args:
        candidates: functions to call, by name.
        rounds: largest number of rounds.
        seconds: time after which no further round begins, except for the first two.
        clock: `time.process_time` for candidates of one thread on a busy machine.

    Returns:
        Seconds per call in every round, by name.
    """
    names = list(candidates)
    # the first call includes compilation and cache misses
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
            times[name].append(statistics.median(_seconds(candidates[name], clock=clock) for _ in range(timed)))
    return times


def summary(values: list[float]) -> dict[str, float]:
    """Median, 10th and 90th percentile."""
    ordered = torch.tensor(values, dtype=torch.float64)
    median, p10, p90 = (float(f"{ordered.quantile(q).item():.4g}") for q in (0.5, 0.1, 0.9))
    return {"median": median, "p10": p10, "p90": p90}


class Meter(Protocol):
    """Measures calls on a device."""

    method: str

    def milliseconds(self, call: Callable[[], object]) -> list[float]:
        """Times of repeated calls."""

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Peak memory above the level before the call; None if it cannot be measured."""


class CudaMeter:
    """Times calls with CUDA events, and clears the L2 cache before each call."""

    method = (
        "Single calls are timed with CUDA events after a warm-up, as many as fit into a fixed time, with the L2 cache "
        "cleared before each (triton.testing.do_bench). The median and the 10th and 90th percentile over the calls are "
        "reported. Peak bytes are the peak memory of the allocator above the level before the call."
    )

    def __init__(self, device: torch.device, repeat_ms: float = 40) -> None:
        self.device, self.repeat_ms = device, repeat_ms

    def milliseconds(self, call: Callable[[], object]) -> list[float]:
        """Times of as many calls as fit into the time, at least one."""
        from triton.testing import do_bench

        times: list[float] = do_bench(call, warmup=self.repeat_ms / 4, rep=self.repeat_ms, return_mode="all")
        return times

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Peak memory of torch's allocator above the level before the call."""
        return peak_bytes(call, self.device)


class HostMeter:
    """Times synchronous calls with a clock."""

    method = (
        "Single calls are timed with a clock after one untimed call, as many as fit into a fixed time, at least three. "
        "The median and the 10th and 90th percentile over the calls are reported."
    )

    def __init__(self, repeat_ms: float = 1000, device: torch.device | None = None) -> None:
        self.repeat_ms, self.device = repeat_ms, device or torch.device("cpu")

    def milliseconds(self, call: Callable[[], object]) -> list[float]:
        """Times of as many calls as fit into the time, at least three."""
        call = waiting(call, self.device)
        call()
        times: list[float] = []
        while len(times) < 3 or sum(times) < self.repeat_ms:
            times.append(1e3 * _seconds(call))
        return times

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """None: not measured on the host."""
        return None


def waiting(call: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """Returns a function that calls and waits for the device; on a CPU, the call itself."""
    if device.type != "mps":
        return call

    def called() -> None:
        call()
        torch.mps.synchronize()

    return called


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Peak memory that torch allocates on a device during a call, above the level before the call."""
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    # the profiler's own summary sums the allocations of each operator and has no peak
    events = profiler.profiler.kineto_results.events()
    steps = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate((size for _, size in steps), initial=0))


class Budget:
    """A time limit in seconds, which starts when it is created."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._begin, self.seconds = clock, clock(), seconds

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._begin

    @property
    def is_spent(self) -> bool:
        """Whether the time limit has been reached."""
        return self.spent >= self.seconds


def _seconds(function: Callable[[], object], calls: int = 1, clock: Callable[[], float] = time.perf_counter) -> float:
    """Time of the last of several calls."""
    for _ in range(calls):
        begin = clock()
        function()
        elapsed = clock() - begin
    return elapsed


def _calls(seconds: float) -> tuple[int, int]:
    """Numbers of untimed and timed calls per turn: about 50 ms of calls, or one call if it takes longer."""
    count = max(1, min(10, int(0.05 / seconds)))
    return min(count, 3), count
