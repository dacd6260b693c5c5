"""`attnzoo bench models`: images per second of whole networks, inference and a training step.

Shape legend: B batch, H W image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .environment import device_name, environment
from .report import reason, slug, table, today, write
from .timing import CudaMeter, HostMeter, Meter, summary

# how a network is laid out and run
PLAIN, CHANNELS_LAST, COMPILED = "plain", "channels-last", "channels-last compiled"
MODES = (PLAIN, CHANNELS_LAST, COMPILED)
HEAD = ("model", "mode", "direction", "images/s", "(p10-p90)", "ms", "memory MiB")
NOTES = [
    "Random weights and images. Inference runs in evaluation mode without "
    "gradients; a training step is forward, cross-entropy, backward and one step of SGD, drop path as the model has it "
    "by default. Both run under bfloat16 autocast on CUDA, and in float32 on a CPU.",
]


def run_models(
    models: Sequence[str],
    device_type: str,
    batch: int,
    image_size: int,
    quick: bool,
    out: Path,
    say: Callable[[str], None],
    meter: Meter | None = None,
) -> None:
    """Measures models, prints a table, and writes `models-<device>-<date>.json`.

    Args:
        models: names that timm knows, ours included.
        device_type: "cpu", one thread of it, or "cuda".
        batch: images of a batch.
        image_size: their side.
        quick: a short time for each row, and nothing compiled.
        out: folder of the file.
        say: takes a line of output.
        meter: how to measure; made for the device where it is not given.

    Raises:
        ValueError: a name that timm does not know.
    """
    require_names(models)
    device = torch.device(device_type)
    torch.manual_seed(0)
    if device.type == "cpu":
        torch.set_num_threads(1)
    repeat_ms = 50 if quick else 1000
    meter = meter or (CudaMeter(device, repeat_ms) if device.type == "cuda" else HostMeter(repeat_ms))
    path = out / f"models-{slug(device_name(device))}-{today()}.json"
    head = {"date": today(), **environment(device), "method": meter.method, "notes": NOTES}
    rows: list[dict[str, Any]] = []
    for row in measure(models, device, batch, image_size, MODES[:2] if quick else MODES, meter):
        rows.append(row)
        if "error" in row:
            say(f"{row['model']}, {row['mode']}, {row['direction']}: {row['error']}")
        # row by row: what was measured outlives a run that is stopped
        write(path, {**head, "rows": rows})
    say(table(HEAD, [_cells(row) for row in rows if "error" not in row]))
    say(f"written to {path}")


def require_names(models: Sequence[str]) -> None:
    """Refuses a name that timm does not know.

    Raises:
        ValueError: says which.
    """
    for name in models:
        if not timm.is_model(name):
            raise ValueError(f"{name!r} is no model's name: see `attnzoo list`, and timm.list_models() for timm's own")


def measure(
    models: Sequence[str], device: torch.device, batch: int, image_size: int, modes: Sequence[str], meter: Meter
) -> Iterator[dict[str, Any]]:
    """One row for each model, mode and direction; a row that fails says why instead of a time."""
    for mode in modes:
        for name in models:
            for is_training in (False, True):
                row = {
                    "model": name,
                    "mode": mode,
                    "direction": "training" if is_training else "inference",
                    "batch": batch,
                    "image_size": image_size,
                }
                try:
                    step = prepare(name, device, batch, image_size, mode, is_training)
                    times = meter.milliseconds(step)
                    yield row | _result(times, batch) | {"peak_bytes": meter.peak_bytes(step)}
                except Exception as error:  # out of memory, or a compiler is missing: the other rows are still wanted
                    yield row | {"error": reason(error)}
                if device.type == "cuda":
                    torch.cuda.empty_cache()


def prepare(
    name: str, device: torch.device, batch: int, image_size: int, mode: str, is_training: bool
) -> Callable[[], object]:
    """A step of a model on one batch, ready to be timed.

    Raises:
        Exception: what the model or the compiler raises, on this batch and size.
    """
    config = timm.get_pretrained_cfg(name)
    size = {"img_size": image_size} if config is not None and config.fixed_input_size else {}
    model: nn.Module = timm.create_model(name, **size).to(device).train(is_training)
    images = torch.randn(batch, 3, image_size, image_size, device=device)
    if mode != PLAIN:
        model, images = model.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    run: Callable[[Tensor], Tensor] = model
    if mode == COMPILED:
        torch._dynamo.reset()
        run = torch.compile(model)
    if not is_training:
        return functools.partial(_infer, run, images)
    labels = torch.randint(0, 10, (batch,), device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    return functools.partial(_train, run, images, labels, optimizer)


def _infer(run: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    with torch.no_grad(), _autocast(images):
        return run(images)


def _train(run: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer) -> None:
    with _autocast(images):
        answer = run(images)
        # an auxiliary head's logits come second
        heads = answer if isinstance(answer, tuple) else (answer,)
        loss = torch.stack([F.cross_entropy(logits, labels) for logits in heads]).sum()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def _autocast(images: Tensor) -> torch.autocast:
    return torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda)


def _result(times: list[float], batch: int) -> dict[str, Any]:
    return {
        "milliseconds": summary(times),
        "images_per_second": summary([1e3 * batch / time for time in times]),
        "calls": len(times),
    }


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    rate, memory = row["images_per_second"], row["peak_bytes"]
    return (
        row["model"],
        row["mode"],
        row["direction"],
        f"{rate['median']:.1f}",
        f"({rate['p10']:.1f}-{rate['p90']:.1f})",
        f"{row['milliseconds']['median']:.2f}",
        "-" if memory is None else f"{memory / 2**20:.0f}",
    )
