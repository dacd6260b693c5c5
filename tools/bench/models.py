"""`attnzoo bench models`: latency, throughput and peak memory over batch and image size, in several runtimes."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..export.checking import without_zeros
from ..export.sessions import relative_difference
from ..export.tasks import make_task
from ..timing import TURNS, CudaMeter, peak_bytes, summary, take_turns, waiting
from .environment import device_name, environment
from .report import reason, slug, table, today, write
from .runtimes import OF_TORCH, RUNTIMES, Call, Exported

# largest difference relative to the largest logit; on a GPU compiled kernels may multiply in TF32
TOLERANCE = {"cpu": 1e-4, "cuda": 2e-2, "mps": 2e-2}
ROUNDS = 15
HEAD = ("model", "size", "batch", "runtime", "direction", "ms", "(p10-p90)", "images/s", "memory MiB", "time / eager")
NOTES = [
    "Random weights and images, float32. `fused` is eager after `fuse()`; the fused model is also compiled and "
    "exported. One ONNX file with a dynamic batch runs in ONNX Runtime and OpenVINO. A training step is forward, "
    "cross-entropy, backward and one step of SGD. The logits must agree with eager before a runtime is timed. Peak "
    "memory is the peak of torch's allocator above the level before the call; it does not include ONNX Runtime and "
    "OpenVINO.",
]


@dataclass(frozen=True)
class Settings:
    """Settings of a benchmark.

    Attributes:
        models: timm model names.
        device: device to run on.
        batches: batch sizes.
        sizes: sides of square images; empty for the size of the model.
        runtimes: names from `RUNTIMES`, including "eager".
        training: measure training steps too.
        threads: number of CPU threads.
        seconds: time limit per row.
        out: folder of the files.
    """

    models: Sequence[str]
    device: torch.device
    batches: Sequence[int]
    sizes: Sequence[int]
    runtimes: Sequence[str]
    training: bool
    threads: int
    seconds: float
    out: Path


def run_models(settings: Settings, say: Callable[[str], None]) -> list[str]:
    """Measures models, prints a table, and writes `models-<device>-<date>.json` and a plot next to it.

    Args:
        settings: what to measure.
        say: prints a line of output.

    Returns:
        A line for each wrong result.

    Raises:
        ValueError: a name is unknown to timm, or a model does not take an image size.
    """
    require_names(settings.models)
    device = settings.device
    torch.set_num_threads(settings.threads)
    path = settings.out / f"models-{slug(device_name(device))}-{today()}.json"
    method = CudaMeter.method if device.type == "cuda" else TURNS
    head = {"date": today(), **environment(device), "method": method, "notes": NOTES}
    rows: list[dict[str, Any]] = []
    for name in settings.models:
        for size in settings.sizes or (None,):
            for row in measure(name, size, settings):
                rows.append(row)
                if "error" in row:
                    say(f"{row['model']} B{row['batch']} {row['runtime']} {row['direction']}: {row['error']}")
                # written after every row, so that a stopped run keeps its results
                write(path, {**head, "rows": rows})
    timed = [row for row in rows if "error" not in row]
    say(table(HEAD, [_cells(row) for row in timed]))
    say(f"written to {path}")
    _draw(path.with_suffix(".png"), timed, say)
    return [f"{row['model']} B{row['batch']} {row['runtime']}: {row['error']}" for row in rows if row.get("is_wrong")]


def require_names(models: Sequence[str]) -> None:
    """Checks that timm knows all names.

    Raises:
        ValueError: a name is unknown to timm.
    """
    for name in models:
        if not timm.is_model(name):
            raise ValueError(f"{name!r} is not a model name: see `attnzoo list` and timm.list_models()")


def measure(name: str, side: int | None, settings: Settings) -> Iterator[dict[str, Any]]:
    """The rows of a model at one image size: one for each batch size, direction and runtime.

    Raises:
        ValueError: the model does not take images of this size.
    """
    size = None if side is None else (side, side)
    config = timm.get_pretrained_cfg(name)
    fixed = {"img_size": size} if size and config is not None and config.fixed_input_size else {}
    torch.manual_seed(0)
    model = timm.create_model(name, **fixed).eval()
    # a layer that is initialized to zero would hide wrong results
    task = make_task(without_zeros(model) or copy.deepcopy(model), "classify", size)
    device = settings.device
    task = task.with_network(task.network.to(device))
    with tempfile.TemporaryDirectory() as folder:
        exported = Exported(task, Path(folder), settings.threads)
        for batch in settings.batches:
            images = torch.randn(batch, *task.input_size, device=device)
            row = {"model": name, "image_size": task.input_size[1], "batch": batch}
            yield from _inference(row, exported, images, settings)
            if settings.training:
                yield from _training(row, task.network, images, settings)


def _inference(
    row: Mapping[str, Any], exported: Exported, images: Tensor, settings: Settings
) -> Iterator[dict[str, Any]]:
    expected = exported.task.expected(images)["logits"]
    calls: dict[str, Callable[[], object]] = {}
    for name in settings.runtimes:
        here = {**row, "runtime": name, "direction": "inference"}
        if images.device.type != "cpu" and name not in OF_TORCH:
            continue
        try:
            call: Call = RUNTIMES[name](exported)
            difference = relative_difference(call(images).cpu(), expected.cpu())
        except Exception as error:  # not installed, no compiler, or unsupported model: the others are still measured
            yield {**here, "error": reason(error)}
            continue
        if not difference <= TOLERANCE[images.device.type]:
            yield {**here, "error": f"differs from eager by {difference:.1e} of the largest logit", "is_wrong": True}
            continue
        calls[name] = functools.partial(call, images)
    yield from _timed(row, "inference", calls, images, settings)


def _training(
    row: Mapping[str, Any], network: nn.Module, images: Tensor, settings: Settings
) -> Iterator[dict[str, Any]]:
    calls: dict[str, Callable[[], object]] = {}
    for name in (name for name in ("eager", "compiled") if name in settings.runtimes):
        error = _first_step(network, images, name, calls)
        if error is not None:
            yield {**row, "runtime": name, "direction": "training", "error": error}
    yield from _timed(row, "training", calls, images, settings)


def _first_step(network: nn.Module, images: Tensor, name: str, calls: dict[str, Callable[[], object]]) -> str | None:
    """Runs a first step and adds it to `calls`; returns the error if it fails, e.g. out of memory or no compiler."""
    try:
        step = training_step(network, images, name == "compiled")
        step()
    except Exception as error:
        return reason(error)
    calls[name] = step
    return None


def training_step(network: nn.Module, images: Tensor, is_compiled: bool) -> Callable[[], None]:
    """A function that trains a copy of a network for one SGD step, always on the same batch."""
    network = copy.deepcopy(network).train()
    run: Callable[[Tensor], Any] = network
    if is_compiled:
        torch._dynamo.reset()
        run = torch.compile(network, dynamic=False)
    labels = torch.randint(0, 10, (len(images),), device=images.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)

    def step() -> None:
        answer = run(images)
        # an auxiliary head's logits come second
        heads = answer if isinstance(answer, tuple) else (answer,)
        torch.stack([F.cross_entropy(logits, labels) for logits in heads]).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _timed(
    row: Mapping[str, Any],
    direction: str,
    calls: dict[str, Callable[[], object]],
    images: Tensor,
    settings: Settings,
) -> Iterator[dict[str, Any]]:
    if images.device.type == "cuda":
        meter = CudaMeter(images.device, 1e3 * settings.seconds / max(1, len(calls)))
        times = {name: [x / 1e3 for x in meter.milliseconds(call)] for name, call in calls.items()}
    else:
        calls = {name: waiting(call, images.device) for name, call in calls.items()}
        times = take_turns(calls, ROUNDS, settings.seconds) if calls else {}
    # torch has no peak of the memory of Apple's GPUs
    has_peak = OF_TORCH if images.device.type != "mps" else ()
    for name, seconds in times.items():
        yield {
            **row,
            "runtime": name,
            "direction": direction,
            "milliseconds": summary([1e3 * x for x in seconds]),
            "images_per_second": summary([len(images) / x for x in seconds]),
            "peak_bytes": peak_bytes(calls[name], images.device) if name in has_peak else None,
            "over_eager": _over_eager(times, name, images.device),
        }


def _over_eager(times: Mapping[str, list[float]], name: str, device: torch.device) -> dict[str, float] | None:
    """Ratios of the times of a runtime to eager: within the same round on a CPU, to the median of eager on a GPU."""
    if name == "eager" or "eager" not in times:
        return None
    if device.type == "cuda":
        middle = summary(times["eager"])["median"]
        return summary([x / middle for x in times[name]])
    return summary([a / b for a, b in zip(times[name], times["eager"], strict=True)])


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    times, over = row["milliseconds"], row["over_eager"]
    return (
        row["model"],
        str(row["image_size"]),
        str(row["batch"]),
        row["runtime"],
        row["direction"],
        f"{times['median']:.2f}",
        f"({times['p10']:.2f}-{times['p90']:.2f})",
        f"{row['images_per_second']['median']:.1f}",
        "-" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:.0f}",
        "-" if over is None else f"{over['median']:.2f}",
    )


def _draw(path: Path, rows: Sequence[Mapping[str, Any]], say: Callable[[str], None]) -> None:
    try:
        from .picture import draw_latency
    except ModuleNotFoundError as error:
        say(f'no plot was written, {str(error.name).split(".")[0]} is missing: pip install "attnzoo[train]"')
        return
    if draw_latency(path, rows):
        say(f"plot written to {path}")
