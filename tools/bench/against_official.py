"""`attnzoo bench models --official`: networks against their authors' formulation, in turns, on one thread of a CPU."""

from __future__ import annotations

import copy
import functools
import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from attnzoo.blocks import Linear, PointwiseConv2d

from ..listing import entries
from .environment import environment
from .report import today, write
from .timing import TURNS, summary, take_turns

# the module that registers a family, and the one here that renders its official formulation
RENDERINGS = {
    "agent": "agent",
    "agent_deit": "agent",
    "bilevel": "biformer",
    "overlock": "overlock",
    "single_head": "single_head",
}
BATCHES = (1, 8)
# what our time over the official formulation's is to be at most
GOALS = {"bilevel": 0.7, "overlock": 0.7}
# relative to the largest logit; what differs more is not the same network
TOLERANCE = 2e-5
NOTES = [
    "float32, one thread, evaluation mode without gradients, images of the published size. Weights are random, "
    "statistics of batch norms too. The peer has the same weights in layers as the official code composes them "
    "(tools/bench/official): explicit softmax, gathers, permutations between layouts, every branch by itself, linear "
    "layers of torch. `fused` is ours after `model.fuse()`. Before anything is timed the logits of all must agree to "
    "2e-5 of the largest.",
]


class DifferentLogitsError(RuntimeError):
    """The rendering does not compute what our network computes."""


def names() -> list[str]:
    """The models published for images of up to 256 pixels whose family has a rendering here."""
    published = [entry for entry in entries() if entry.weights and max(entry.input_size) <= 256]
    return [entry.name for entry in published if _family(entry.name) in RENDERINGS]


def run_against_official(
    models: Sequence[str], batches: Sequence[int], quick: bool, seconds: float, out: Path, say: Callable[[str], None]
) -> None:
    """Measures models against the official formulation, and writes `official-cpu-<date>.json`.

    Args:
        models: names; all that can be compared where there are none.
        batches: numbers of images.
        quick: two rounds for each row.
        seconds: time for a row.
        out: folder of the file.
        say: takes a line of output.

    Raises:
        ValueError: a model whose family has no rendering.
        DifferentLogitsError: the logits differ.
    """
    for name in models:
        if not timm.is_model(name) or _family(name) not in RENDERINGS:
            raise ValueError(
                f"there is no official formulation of {name!r} to compare with: these have one, {', '.join(names())}"
            )
    torch.set_num_threads(1)
    path = out / f"official-cpu-{today()}.json"
    head = {"date": today(), **environment(torch.device("cpu")), "method": TURNS, "notes": NOTES}
    rows = []
    for name in models or names():
        for batch in batches:
            rows.append(measure(name, batch, 2 if quick else 15, seconds))
            say(_line(rows[-1]))
            # row by row: what was measured outlives a run that is stopped
            write(path, {**head, "rows": rows})
    say(f"written to {path}")


def measure(name: str, batch: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One row: the logits first, then times.

    Raises:
        DifferentLogitsError: the logits differ.
    """
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 1.5)
    rendering = importlib.import_module(f".official.{RENDERINGS[_family(name)]}", __package__)
    candidates = {
        "ours": model,
        "fused": copy.deepcopy(model).fuse(),
        "official": rendering.official(_with_plain_layers(model)),
    }
    images = torch.randn(batch, *model.pretrained_cfg["input_size"])
    with torch.inference_mode():
        ours, fused, official = (network(images) for network in candidates.values())
        differences = torch.stack([ours - official, fused - official]).abs().max()
        difference = (differences / official.abs().max()).item()
        if not difference < TOLERANCE:
            raise DifferentLogitsError(f"{name}: logits differ from the official formulation's by {difference:.1e}")
        times = take_turns(
            {key: functools.partial(_infer, net, images) for key, net in candidates.items()}, rounds, seconds
        )
    return {
        "name": f"{name} B{batch}",
        "direction": "forward",
        "rounds": len(times["ours"]),
        "difference": float(f"{difference:.1e}"),
        "milliseconds": {key: summary([1e3 * x for x in values]) for key, values in times.items()},
        "ours_over": {"official": _ratio(times, "ours", "official")},
        "fused_over": {"ours": _ratio(times, "fused", "ours"), "official": _ratio(times, "fused", "official")},
        "wanted_over_official": GOALS.get(_family(name), 1.0),
    }


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


def _family(name: str) -> str:
    return timm.models.model_entrypoint(name).__module__.rpartition(".")[2]


def _line(row: dict[str, Any]) -> str:
    times, ratio, fused = row["milliseconds"], row["ours_over"]["official"], row["fused_over"]["ours"]
    return (
        f"{row['name']:<28} {times['ours']['median']:>8.1f} ms, official {times['official']['median']:>8.1f} ms  "
        f"/ official {ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})  "
        f"fused / ours {fused['median']:.3f} ({fused['p10']:.3f}-{fused['p90']:.3f})"
    )
