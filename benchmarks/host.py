"""`python -m benchmarks host`: microseconds of the host per call of an operator with Triton kernels, without a GPU.

Launches go through Triton's own launcher to a driver that only records (`recording_driver.c`), so the time is that of
the host alone: checks of the arguments, torch's autograd, allocations, and the launches. On a GPU, small problems are
bound by it. For comparison, the same is measured of a function that does nothing: what torch's autograd itself takes.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from attnzoo.tools.bench.environment import environment, version
from attnzoo.tools.bench.report import table, today, write

HEAD = ("operator", "forward µs", "with gradients µs", "backward µs")
CALLS = 100


def calls() -> Iterator[tuple[str, Callable[[], Tensor], list[Tensor]]]:
    """Yields a name, a call of an operator on a 14x14 map, and its differentiable inputs."""
    from attnzoo.kernels import (
        halo_attention,
        neighborhood_attention,
        packed_neighborhood_attention,
        packed_window_attention,
        routed_attention,
        window_attention,
    )

    def leaf(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16).requires_grad_()

    qkv, (q, k, v) = leaf(1, 14, 14, 3, 2, 32), (leaf(1, 14, 14, 2, 32) for _ in range(3))
    bias, large = leaf(2, 13, 13), leaf(2, 27, 27)
    routes = torch.zeros(1, 49, 4, dtype=torch.int64)
    named: dict[str, tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]]] = {
        "neighborhood k7": (neighborhood_attention, (q, k, v, 7), {"bias": bias}),
        "neighborhood k7, packed": (packed_neighborhood_attention, (qkv, 7), {"bias": bias}),
        "window w7": (window_attention, (q, k, v, 7), {"bias": bias, "shift": 3}),
        "window w7, packed": (packed_window_attention, (qkv, 7), {"bias": bias, "shift": 3}),
        "window w14": (window_attention, (q, k, v, 14), {"bias": large}),
        "routed topk 4": (routed_attention, (q, k, v, routes), {"regions": 7}),
        "halo b7": (halo_attention, (q, k, v), {"block_size": 7, "halo": 2}),
    }
    for name, (operator, given, options) in named.items():
        tensors = [x for x in (*given, *options.values()) if isinstance(x, Tensor) and x.requires_grad]

        def call(operator: Any = operator, given: Any = given, options: Any = options) -> Tensor:
            out: Tensor = operator(*given, **options, backend="triton")
            return out

        yield name, call, tensors


def nothing() -> tuple[str, Callable[[], Tensor], list[Tensor]]:
    """Returns a name, a call of a function with a derivative and four tensors that computes nothing, and its inputs."""
    tensors = [torch.randn(1, 14, 14, 2, 32, dtype=torch.bfloat16).requires_grad_() for _ in range(4)]
    made = [x.detach().clone() for x in tensors]

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Tensor) -> Tensor:
            ctx.save_for_backward(*given)
            return made[0].view(made[0].shape)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            return tuple(made[: len(ctx.saved_tensors)])

    return "nothing", lambda: Nothing.apply(*tensors), tensors  # type: ignore[no-any-return]


def microseconds(call: Callable[[], object]) -> float:
    """Returns the process time per call."""
    begin = time.process_time()
    for _ in range(CALLS):
        call()
    return 1e6 * (time.process_time() - begin) / CALLS


def measure(rounds: int) -> list[dict[str, Any]]:
    """Measures all operators in turn, and returns medians over rounds; the recording driver must be installed."""
    cases = [*calls(), nothing()]
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name, _, _ in cases}
    for number in range(-1, rounds):
        for name, call, tensors in cases:
            gradient = torch.ones_like(call())

            def both(call: Any = call, tensors: Any = tensors, gradient: Any = gradient) -> object:
                return torch.autograd.grad(call(), tensors, gradient)

            with torch.no_grad():
                forward = microseconds(call)
            training = microseconds(call)
            # the forward pass within is that with gradients
            times = forward, training, microseconds(both) - training
            # the first round compiles
            if number >= 0:
                found[name].append(times)
    rows = []
    for name, times_of in found.items():
        forward, training, backward = map(statistics.median, zip(*times_of, strict=True))
        rows.append({"operator": name, "forward": forward, "training_forward": training, "backward": backward})
    return rows


def run_host(rounds: int, out: Path, say: Callable[[str], None]) -> None:
    """Measures the operators, prints a table, and writes `host-<date>.json`.

    Raises:
        ClickException: there is no C compiler, or Triton is not installed.
    """
    import importlib.util

    from .recording_driver import Recorder, compiler

    if importlib.util.find_spec("triton") is None or compiler() is None:
        raise click.ClickException("this benchmark needs Triton and a C compiler")
    if os.environ.get("TRITON_INTERPRET", "0") == "1":
        raise click.ClickException("Triton's interpreter is on: unset TRITON_INTERPRET")
    from attnzoo.kernels import backends
    from attnzoo.kernels.routed import api as routed

    torch.set_num_threads(1)
    backends._triton_obstacle = lambda tensors: None
    # on a GPU, routes are not read
    routed._check_range = lambda routes: None
    with tempfile.TemporaryDirectory() as folder:
        Recorder(Path(folder)).stop()
        rows = measure(rounds)
    cells = [tuple(f"{x:.0f}" if isinstance(x, float) else x for x in row.values()) for row in rows]
    say(table(HEAD, cells))
    path = out / f"host-{today()}.json"
    head = {"date": today(), "triton": version("triton"), **environment(torch.device("cpu"))}
    write(
        path, {**head, "method": f"median of {rounds} rounds of {CALLS} calls, process time, one thread", "rows": rows}
    )
    say(f"written to {path}")
