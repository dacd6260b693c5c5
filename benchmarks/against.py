"""`python -m benchmarks models PEER`: networks beside another formulation, in turns, on one thread of a CPU.

The peer is the formulation of the authors' code, or timm's network of the same name.
"""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from attnzoo.base import checkpoint_filter
from attnzoo.blocks import Linear, PointwiseConv2d
from attnzoo.tools.bench.environment import environment
from attnzoo.tools.bench.report import today, write
from attnzoo.tools.listing import names
from attnzoo.tools.timing import TURNS, summary, take_turns

BATCHES = (1, 8)
# relative to the largest logit; what differs more is not the same network
TOLERANCE = 2e-5
METHOD = (
    "float32, one thread, evaluation mode without gradients, images of the published size. Weights are random, "
    "statistics of batch norms too. `fused` is ours after `model.fuse()`. Before anything is timed the logits of all "
    "must agree to 2e-5 of the largest."
)


@dataclass(frozen=True)
class Opponent:
    """What networks are put beside.

    Attributes:
        name: in results and on the command line.
        note: what it is.
        knows: whether there is a peer for a model of ours.
        build: from the name of a model of ours and the model, the peer with the same weights.
        goals: by family, what our time over the peer's is to be at most; 1 for the others.
    """

    name: str
    note: str
    knows: Callable[[str], bool]
    build: Callable[[str, nn.Module], nn.Module]
    goals: Mapping[str, float] = field(default_factory=dict)

    def models(self) -> list[str]:
        """The models that can be compared, of those published for images of up to 256 pixels."""
        configs = {name: timm.get_pretrained_cfg(name) for name in names() if self.has(name)}
        return [name for name, config in configs.items() if config.has_weights and max(config.input_size) <= 256]

    def has(self, name: str) -> bool:
        """Whether a model can be compared."""
        return timm.is_model(name) and self.knows(name)


class DifferentLogitsError(RuntimeError):
    """The peer does not compute what our network computes."""


def family_of(name: str) -> str:
    """The module that registers a model, without its package."""
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
    """Measures models beside a peer, and writes `<peer>-cpu-<date>.json`.

    Args:
        peer: a key of `OPPONENTS`.
        models: names; all that can be compared where there are none.
        batches: numbers of images.
        quick: two rounds for each row.
        seconds: time for a row.
        out: folder of the file.
        say: takes a line of output.

    Raises:
        ValueError: a model that the peer does not have.
        DifferentLogitsError: the logits differ.
    """
    opponent = OPPONENTS[peer]
    for name in models:
        if not opponent.has(name):
            raise ValueError(
                f"there is nothing of {peer} to compare {name!r} with: these can be, {', '.join(opponent.models())}"
            )
    torch.set_num_threads(1)
    path = out / f"{peer}-cpu-{today()}.json"
    head = {"date": today(), **environment(torch.device("cpu")), "method": TURNS, "notes": [METHOD, opponent.note]}
    rows = []
    for name in models or opponent.models():
        for batch in batches:
            rows.append(measure(opponent, name, batch, 2 if quick else 15, seconds))
            say(_line(rows[-1], peer))
            # row by row: what was measured outlives a run that is stopped
            write(path, {**head, "rows": rows})
    say(f"written to {path}")


def measure(opponent: Opponent, name: str, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One row: the logits first, then times.

    Raises:
        DifferentLogitsError: the logits differ.
    """
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    peer = opponent.build(name, model)
    candidates = {"ours": model, "fused": copy.deepcopy(model).fuse(), opponent.name: peer}
    images = torch.randn(batch, *model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        ours, fused, theirs = (network(images) for network in candidates.values())
        differences = torch.stack([ours - theirs, fused - theirs]).abs().max()
        difference = (differences / theirs.abs().max()).item()
        if not difference < TOLERANCE:
            raise DifferentLogitsError(f"{name}: logits differ from those of {opponent.name} by {difference:.1e}")
        times = take_turns(
            {key: functools.partial(_infer, net, images) for key, net in candidates.items()}, rounds, seconds
        )
    return {
        "name": f"{name} B{batch}",
        "direction": "forward",
        "rounds": len(times["ours"]),
        "difference": float(f"{difference:.1e}"),
        "milliseconds": {key: summary([1e3 * x for x in values]) for key, values in times.items()},
        "ours_over": {opponent.name: _ratio(times, "ours", opponent.name)},
        "fused_over": {"ours": _ratio(times, "fused", "ours"), opponent.name: _ratio(times, "fused", opponent.name)},
        f"wanted_over_{opponent.name}": opponent.goals.get(family_of(name), 1.0),
    }


def _official(name: str, model: nn.Module) -> nn.Module:
    """The formulation of the authors, on the weights of ours."""
    _randomize_statistics(model)
    rendering = importlib.import_module(f".official.{OFFICIAL[family_of(name)]}", __package__)
    network: nn.Module = rendering.official(_with_plain_layers(model))
    return network


def _timms(name: str, model: nn.Module) -> nn.Module:
    """timm's network, whose weights ours gets."""
    network = timm.create_model(_name_in_timm(name)).eval()
    _randomize_statistics(network)
    model.load_state_dict(checkpoint_filter(name)(network.state_dict(), model))
    return network


def _name_in_timm(name: str) -> str:
    """timm's name for a network of ours, where timm has it."""
    return name.removeprefix("zoo_") if name.startswith("zoo_") else ""


def _randomize_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)


def _with_plain_layers(model: nn.Module) -> nn.Module:
    """A copy whose linear layers and convolutions are torch's own, which have the same parameters."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, Linear):
            module.__class__ = nn.Linear  # type: ignore[assignment]
        elif isinstance(module, PointwiseConv2d):
            module.__class__ = nn.Conv2d  # type: ignore[assignment]
    return model


def _ratio(times: dict[str, list[float]], name: str, peer: str) -> dict[str, float]:
    return summary([a / b for a, b in zip(times[name], times[peer], strict=True)])


def _infer(network: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = network(images)
    return logits


def _line(row: dict[str, Any], peer: str) -> str:
    times, ratio, fused = row["milliseconds"], row["ours_over"][peer], row["fused_over"]["ours"]
    return (
        f"{row['name']:<28} {times['ours']['median']:>8.1f} ms, {peer} {times[peer]['median']:>8.1f} ms  "
        f"/ {peer} {ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})  "
        f"fused / ours {fused['median']:.3f} ({fused['p10']:.3f}-{fused['p90']:.3f})"
    )


# the file of `official` that renders a family
OFFICIAL = {
    "agent": "agent",
    "agent_deit": "agent",
    "biformer": "biformer",
    "overlock": "overlock",
    "zoo_shvit": "shvit",
}
# families whose weights timm has under other names of parameters
TIMMS = ("halonet", "swin", "zoo_davit", "zoo_mambaout", "zoo_swiftformer", "zoo_twins")
OPPONENTS = {
    "official": Opponent(
        "official",
        "The peer has the same weights in layers as the official code composes them (benchmarks/official): explicit "
        "softmax, gathers, permutations between layouts, every branch by itself, linear layers of torch.",
        lambda name: family_of(name) in OFFICIAL,
        _official,
        {"biformer": 0.7, "overlock": 0.7},
    ),
    "timm": Opponent(
        "timm",
        "The peer is timm's network of the same name as it is made by default, whose weights are loaded into ours.",
        lambda name: family_of(name) in TIMMS and timm.is_model(_name_in_timm(name)),
        _timms,
        {"swin": 0.9},
    ),
}
