"""The operators on a CPU: the eager execution and its peers, interleaved, forward and forward with backward."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from attnzoo.tools.timing import summary, take_turns

from .correctness import Truth, check_peer, forward, gradients
from .operators import Operator, Peer, Shape

CPU = torch.device("cpu")


class WrongResultError(RuntimeError):
    """A candidate does not compute the operator."""


def measure(operator: Operator, shape: Shape, is_training: bool, rounds: int, seconds: float) -> dict[str, Any]:
    """Checks correctness, then measures the times: one row of the results.

    Args:
        operator: operator under test.
        shape: shape of the row.
        is_training: whether to run forward and backward, or forward without gradients.
        rounds: maximal number of rounds.
        seconds: time after which no further round begins.

    Raises:
        WrongResultError: ours or a peer is wrong on this shape.
    """
    inputs = shape.inputs(torch.float32, CPU)
    upstream = torch.randn(shape.output_shape)
    truth = Truth(shape, inputs)
    calls: dict[str, Callable[[], object]] = {}
    peers = {"ours": Peer(lambda: shape.call("eager")), **operator.cpu_peers(shape, is_training)}
    for name, peer in peers.items():
        function, complaint = check_peer(truth, peer, inputs, is_training)
        if name == "ours":
            complaint = truth.complaint(truth.of(function, inputs, is_training))
        if complaint is not None:
            raise WrongResultError(f"{name} is wrong at {operator.name} {shape.name}: {complaint}")
        given = peer.prepare(inputs) if peer.prepare else inputs
        calls[name] = functools.partial(forward, function, given)
        if is_training:
            calls[name] = functools.partial(gradients, function, given, upstream)
    del truth
    times = take_turns(calls, rounds, seconds)
    return {
        "shape": asdict(shape),
        "name": shape.name,
        "direction": "forward+backward" if is_training else "forward",
        "rounds": len(times["ours"]),
        "milliseconds": {name: summary([1e3 * x for x in values]) for name, values in times.items()},
        "ours_over": {
            name: summary([ours / peer for ours, peer in zip(times["ours"], values, strict=True)])
            for name, values in times.items()
            if name != "ours"
        },
        f"wanted_over_{operator.goal_peer}": shape.wanted_training if is_training else shape.wanted_forward,
    }


def line(row: dict[str, Any]) -> str:
    """Formats a row: our time in milliseconds, and its ratios to the peers with their spread."""
    wanted = next((value for name, value in row.items() if name.startswith("wanted_over_")), None)
    ratios = "  ".join(
        f"/ {peer} {ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})"
        for peer, ratio in row["ours_over"].items()
    )
    goal = f"  target {wanted}" if wanted else ""
    return f"{row['name']:<24} {row['direction']:<16} {row['milliseconds']['ours']['median']:>8.2f} ms  {ratios}{goal}"
