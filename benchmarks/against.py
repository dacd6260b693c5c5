"""`python -m benchmarks models PEER`: models against another formulation, interleaved, on one thread of a CPU.

The peer is the formulation of the authors' code, or timm's model of the same name.
"""

from __future__ import annotations

import copy
import functools
import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from attnzoo.base import checkpoint_filter
from attnzoo.tools.bench.environment import environment
from attnzoo.tools.bench.report import today, write
from attnzoo.tools.listing import names
from attnzoo.tools.timing import TURNS, summary, take_turns

BATCHES = (1, 8)
# relative to the largest logit
TOLERANCE = 2e-5
METHOD = (
    "float32, one thread, evaluation mode without gradients, images of the published size. Weights and batch norm "
    "statistics are random. `fused` is ours after `model.fuse()`. Before anything is timed, all logits must agree to "
    "2e-5 of the largest."
)


@dataclass(frozen=True)
class Opponent:
    """The other implementation that models are compared with.

    Attributes:
        name: name in results and on the command line.
        note: description for the result file.
        knows: tells by name whether a model of ours has a peer.
        build: makes the peer with the same weights, from the name of our model and the model.
        goals: target for our time over the peer's, by family; 1 for families that are not listed.
    """

    name: str
    note: str
    knows: Callable[[str], bool]
    build: Callable[[str, nn.Module], nn.Module]
    goals: Mapping[str, float] = field(default_factory=dict)

    def models(self) -> list[str]:
        """Names of the published models that can be compared, for images of up to 256 pixels."""
        configs = {name: timm.get_pretrained_cfg(name) for name in names() if self.has(name)}
        return [
            name for name, config in configs.items() if not name.endswith("_pico") and max(config.input_size) <= 256
        ]

    def has(self, name: str) -> bool:
        """Whether a model can be compared."""
        return timm.is_model(name) and self.knows(name)


class DifferentLogitsError(RuntimeError):
    """The peer's logits differ from those of our model."""


def family_of(name: str) -> str:
    """Returns the name of the module that registers a model, without its package."""
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def run_against(
    peer: str,
    models: Sequence[str],
    batches: Sequence[int],
    quick: bool,
    seconds: float,
    out: Path,
    say: Callable[[str], None],
) -> None:
    """Measures models against a peer, and writes `<peer>-cpu-<date>.json`.

    Args:
        peer: a key of `OPPONENTS`.
        models: names of models; if empty, all that can be compared.
        batches: batch sizes.
        quick: run two rounds per row.
        seconds: time per row.
        out: folder for the result file.
        say: prints a line.

    Raises:
        ValueError: the peer does not have one of the models.
        DifferentLogitsError: the logits differ.
    """
    opponent = OPPONENTS[peer]
    for name in models:
        if not opponent.has(name):
            raise ValueError(
                f"{name!r} has no {peer} peer to compare it with: choose one of {', '.join(opponent.models())}"
            )
    torch.set_num_threads(1)
    path = out / f"{peer}-cpu-{today()}.json"
    head = {"date": today(), **environment(torch.device("cpu")), "method": TURNS, "notes": [METHOD, opponent.note]}
    rows = []
    for name in models or opponent.models():
        for batch in batches:
            rows.append(measure(opponent, name, batch, 2 if quick else 15, seconds))
            say(line(rows[-1], peer))
            # written after every row, so that an interrupted run keeps its results
            write(path, {**head, "rows": rows})
    say(f"written to {path}")


def measure(opponent: Opponent, name: str, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Compares the logits, then measures the times: one row of the results.

    Raises:
        DifferentLogitsError: the logits differ.
    """
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    peer = opponent.build(name, model)
    candidates = {"ours": model, "fused": copy.deepcopy(model).fuse(), opponent.name: peer}
    images = torch.randn(batch, *model.pretrained_cfg["input_size"])
    return compare(name, candidates, images, opponent.goals.get(family_of(name), 1.0), rounds, seconds)


def compare(
    name: str,
    candidates: dict[str, nn.Module],
    images: Tensor,
    goal: float,
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Any]:
    """Compares the logits of `ours`, `fused` and a peer, then measures the times: one row of the results.

    Args:
        name: name of the row, without the batch.
        candidates: the networks, the peer last.
        images: the input.
        goal: target for our time over the peer's.
        rounds: largest number of rounds.
        seconds: time after which no further round begins.
        clock: see `take_turns`.

    Raises:
        DifferentLogitsError: the logits differ.
    """
    peer = list(candidates)[-1]
    with torch.inference_mode():
        ours, fused, theirs = (network(images) for network in candidates.values())
        differences = torch.stack([ours - theirs, fused - theirs]).abs().max()
        difference = (differences / theirs.abs().max()).item()
        if not difference < TOLERANCE:
            raise DifferentLogitsError(f"{name}: logits differ from those of {peer} by {difference:.1e}")
        calls: dict[str, Callable[[], object]] = {
            key: functools.partial(_infer, net, images) for key, net in candidates.items()
        }
        times = take_turns(calls, rounds, seconds, clock)
    return {
        "name": f"{name} B{len(images)}",
        "direction": "forward",
        "rounds": len(times["ours"]),
        "difference": float(f"{difference:.1e}"),
        "milliseconds": {key: summary([1e3 * x for x in values]) for key, values in times.items()},
        "ours_over": {peer: _ratio(times, "ours", peer)},
        "fused_over": {"ours": _ratio(times, "fused", "ours"), peer: _ratio(times, "fused", peer)},
        f"wanted_over_{peer}": goal,
    }


def _official(name: str, model: nn.Module) -> nn.Module:
    """The formulation of the authors with the weights of our model."""
    randomize_statistics(model)
    rendering = importlib.import_module(f".official.{OFFICIAL[family_of(name)]}", __package__)
    network: nn.Module = rendering.official(copy.deepcopy(model))
    return network


def _timms(name: str, model: nn.Module) -> nn.Module:
    """timm's model; its weights are loaded into ours."""
    network = timm.create_model(_name_in_timm(name)).eval()
    randomize_statistics(network)
    model.load_state_dict(checkpoint_filter(name)(network.state_dict(), model))
    return network


def _name_in_timm(name: str) -> str:
    """timm's name for one of our models; empty if timm does not have it."""
    return name.removeprefix("zoo_") if name.startswith("zoo_") else ""


def randomize_statistics(model: nn.Module) -> None:
    """Replaces the statistics of batch norms, in place, by random numbers."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)


def _ratio(times: dict[str, list[float]], name: str, peer: str) -> dict[str, float]:
    return summary([a / b for a, b in zip(times[name], times[peer], strict=True)])


def _infer(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    return logits


def line(row: dict[str, Any], peer: str) -> str:
    """Formats a row: times in milliseconds, and ratios with their spread."""
    times, ratio, fused = row["milliseconds"], row["ours_over"][peer], row["fused_over"]["ours"]
    return (
        f"{row['name']:<28} {times['ours']['median']:>8.1f} ms, {peer} {times[peer]['median']:>8.1f} ms  "
        f"/ {peer} {ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})  "
        f"fused / ours {fused['median']:.3f} ({fused['p10']:.3f}-{fused['p90']:.3f})"
    )


# module of benchmarks/official for each family
OFFICIAL = {
    "agent": "agent",
    "agent_deit": "agent",
    "biformer": "biformer",
    "eca_resnet": "channel_attention",
    "fcanet": "channel_attention",
    "fftnet": "spectral",
    "flowformer": "flowformer",
    "gfnet": "spectral",
    "ninformer": "token_mixing",
    "overlock": "overlock",
    "parcnetv2": "parcnetv2",
    "perceiver": "perceiver",
    "residual_attention": "residual_attention",
    "spectformer": "spectral",
    "spectformer_h": "spectral",
    "yolov12": "yolov12",
    "plainmamba": "plainmamba",
    "zoo_shvit": "shvit",
}
# families that timm has too, with other parameter names
TIMMS = ("halonet", "swin", "zoo_davit", "zoo_mambaout", "zoo_swiftformer", "zoo_twins")
OPPONENTS = {
    "official": Opponent(
        "official",
        "The peer has the same weights, in layers composed as in the official code (benchmarks/official): explicit "
        "softmax, gathers, permutations between layouts, separate branches, scans token by token, torch's linear "
        "layers.",
        lambda name: family_of(name) in OFFICIAL,
        _official,
        {"biformer": 0.7, "overlock": 0.7, "parcnetv2": 0.8, "plainmamba": 0.8},
    ),
    "timm": Opponent(
        "timm",
        "The peer is timm's model of the same name with its default arguments; its weights are loaded into ours.",
        lambda name: family_of(name) in TIMMS and timm.is_model(_name_in_timm(name)),
        _timms,
        {"swin": 0.9},
    ),
}
