"""Timing: in turns on a shared, noisy CPU, where only ratios within one turn are compared; by events on CUDA."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable
from typing import Protocol

import torch
from torch.profiler import ProfilerActivity, profile

TURNS = (
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


class Meter(Protocol):
    """Measures calls on a device."""

    method: str

    def milliseconds(self, call: Callable[[], object]) -> list[float]:
        """Times of many calls."""

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """What a call holds at most beyond what was there before it; None where that cannot be known."""


class CudaMeter:
    """CUDA events around each call, with the L2 cache cleared before it."""

    method = (
        "CUDA events around single calls after a warm-up, as many calls as fit a fixed time, the L2 cache cleared "
        "before each (triton.testing.do_bench); reported are median, 10th and 90th percentile over the calls. "
        "Peak bytes are of the allocator, less what was held before the call."
    )

    def __init__(self, device: torch.device, repeat_ms: float = 40) -> None:
        self.device, self.repeat_ms = device, repeat_ms

    def milliseconds(self, call: Callable[[], object]) -> list[float]:
        """Times of at least one call, and of as many as fit the time."""
        from triton.testing import do_bench

        times: list[float] = do_bench(call, warmup=self.repeat_ms / 4, rep=self.repeat_ms, return_mode="all")
        return times

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """By the counters of torch's allocator."""
        return peak_bytes(call, self.device)


class HostMeter:
    """A clock around each call, for calls that return when they are done."""

    method = (
        "A clock around single calls after one that is not timed, at least three calls, as many as fit a fixed time; "
        "reported are median, 10th and 90th percentile over the calls."
    )

    def __init__(self, repeat_ms: float = 1000) -> None:
        self.repeat_ms = repeat_ms

    def milliseconds(self, call: Callable[[], object]) -> list[float]:
        """Times of at least three calls, and of as many as fit the time."""
        call()
        times: list[float] = []
        while len(times) < 3 or sum(times) < self.repeat_ms:
            times.append(1e3 * _seconds(call))
        return times

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """The host does not say."""
        return None


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """What torch has allocated at most on a device during a call, beyond what there was before it."""
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
    # the profiler's own summary adds up what each operator allocates, and knows no peak
    events = profiler.profiler.kineto_results.events()
    steps = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(itertools.accumulate((size for _, size in steps), initial=0))


class Budget:
    """Time that may be spent, in seconds from now."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock, self._begin, self.seconds = clock, clock(), seconds

    @property
    def spent(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begin

    @property
    def is_spent(self) -> bool:
        """Whether nothing more should begin."""
        return self.spent >= self.seconds


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
