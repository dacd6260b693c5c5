"""`python -m benchmarks export`: models as they are deployed, interleaved, on one thread of a CPU."""

from __future__ import annotations

import copy
import functools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

import attnzoo
from attnzoo.tools.bench.environment import environment, version
from attnzoo.tools.bench.models import require_names
from attnzoo.tools.bench.report import plain, reason, table, today, write
from attnzoo.tools.bench.runtimes import Call, Exported
from attnzoo.tools.export.checking import without_zeros
from attnzoo.tools.export.sessions import relative_difference
from attnzoo.tools.export.tasks import make_task
from attnzoo.tools.listing import entries
from attnzoo.tools.timing import TURNS, summary, take_turns

from .accuracy_picture import draw
from .runtimes import RUNTIMES

BATCHES = (1, 8)
# relative to the largest logit
TOLERANCE = 1e-4
COMPILED = ("compile", "aoti")
LARGEST = 35e6
# ratios in the results: time of the first runtime over that of the second
RATIOS = {
    "onnxruntime_over_eager": ("onnxruntime", "eager"),
    "onnxruntime_over_fused": ("onnxruntime", "fused"),
    "onnxruntime_over_gather": ("onnxruntime", "gather"),
}
# columns of the result file, and of the table made from it
COLUMNS = {"model": "model", "batch": "batch", **{name: f"{name} ms" for name in RUNTIMES}} | {
    key: " / ".join(names) for key, names in RATIOS.items()
}
NOTES = [
    "float32, one thread, images of the model's own size by default. Weights are random and nonzero. fused is eager "
    "after `fuse()`; the fused model is also compiled and exported. compile is torch.compile for one batch size, aoti "
    "a package of AOTInductor; onnxruntime and openvino run one ONNX file; these three take any batch size. gather is "
    "the ONNX file of the same model whose neighborhood attention gathers the keys of every query. Times are "
    "milliseconds per batch. Before anything is timed, the logits must agree with eager to 1e-4 of the largest.",
]


def names() -> list[str]:
    """Names of the models with published accuracy, at most 35 M parameters and images of at most 256 pixels."""
    return [
        entry.name
        for entry in entries()
        if "top1" in entry.published and entry.parameters <= LARGEST and max(entry.input_size) <= 256
    ]


def run_export(
    models: Sequence[str],
    batches: Sequence[int],
    image_size: int | None,
    runtimes: Sequence[str],
    quick: bool,
    seconds: float,
    out: Path,
    say: Callable[[str], None],
) -> list[str]:
    """Measures models, prints a table, and writes `export-cpu-<date>.json` and a figure.

    Args:
        models: names that timm knows; if empty, those of `names`.
        batches: batch sizes.
        image_size: side of the images; by default the model's own height and width.
        runtimes: keys of `RUNTIMES` to measure in addition to eager; if empty, all.
        quick: run two rounds per row, and skip compiled runtimes unless they are named.
        seconds: time per row.
        out: folder for the files.
        say: prints a line.

    Returns:
        A line for each wrong result.

    Raises:
        ValueError: timm does not know a name, or a model does not take the image size.
    """
    require_names(models)
    torch.set_num_threads(1)
    chosen = [name for name in RUNTIMES if name == "eager" or _is_wanted(name, runtimes, quick)]
    path = out / f"export-cpu-{today()}.json"
    versions = {name: version(name) for name in ("onnx", "onnxruntime", "openvino")}
    head = {"date": today(), **environment(torch.device("cpu")), **versions, "method": TURNS, "notes": NOTES}
    rows: list[dict[str, Any]] = []
    for name in models or names():
        for row in measure(name, batches, image_size, chosen, 2 if quick else 15, seconds):
            rows.append(row)
            say(_line(row))
            # written after every row, so that an interrupted run keeps its results
            write(path, {**head, "columns": COLUMNS, "rows": rows})
    say(table(tuple(COLUMNS.values()), [tuple(plain(row[key]) for key in COLUMNS) for row in rows]))
    say(f"written to {path}")
    if draw(path.with_suffix(".png"), rows):
        say(f"figure written to {path.with_suffix('.png')}")
    return [f"{row['model']} B{row['batch']}, {wrong}" for row in rows for wrong in row["wrong"]]


def _is_wanted(name: str, runtimes: Sequence[str], quick: bool) -> bool:
    return name in runtimes if runtimes else not (quick and name in COMPILED)


def measure(
    name: str, batches: Sequence[int], image_size: int | None, runtimes: Sequence[str], rounds: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """Yields one row per batch size: compares the logits of every runtime, then measures the times.

    Raises:
        ValueError: the model does not take the image size.
    """
    size = None if image_size is None else (image_size, image_size)
    config = timm.get_pretrained_cfg(name)
    assert config is not None, f"{name} is registered without a default_cfg"
    torch.manual_seed(0)
    model = timm.create_model(name, **({"img_size": size} if size and config.fixed_input_size else {})).eval()
    # a layer that is initialised to zero would hide errors in the layers before it
    task = make_task(without_zeros(model) or copy.deepcopy(model), "classify", size)
    with tempfile.TemporaryDirectory() as folder:
        exported = Exported(task, Path(folder))
        for batch in batches:
            images = torch.randn(batch, *task.input_size)
            row = {"model": name, "batch": batch, "image_size": list(task.input_size[1:])}
            row["top1"] = attnzoo.published(name).get("top1") if size in (None, tuple(config.input_size[1:])) else None
            yield row | _measure(exported, images, runtimes, rounds, seconds)


def _measure(
    exported: Exported, images: Tensor, runtimes: Sequence[str], rounds: int, seconds: float
) -> dict[str, Any]:
    expected = exported.task.expected(images)["logits"]
    calls: dict[str, Call] = {}
    differences: dict[str, float] = {}
    reasons: dict[str, str] = {}
    wrong: list[str] = []
    for name in runtimes:
        try:
            call = RUNTIMES[name](exported)
            differences[name] = float(f"{relative_difference(call(images), expected):.1e}")
        except Exception as error:  # not installed, no compiler, or not for this model: the others are still measured
            reasons[name] = reason(error)
            continue
        if differences[name] <= TOLERANCE:
            calls[name] = call
        else:
            reasons[name] = f"differs from eager by {differences[name]:.1e} of the largest logit"
            wrong.append(f"{name} {reasons[name]}")
    times = take_turns({key: functools.partial(call, images) for key, call in calls.items()}, rounds, seconds)
    result: dict[str, Any] = dict.fromkeys((*RUNTIMES, *RATIOS), "-")
    result |= {name: summary([1e3 * time for time in values]) for name, values in times.items()}
    for key, (one, other) in RATIOS.items():
        if one in times and other in times:
            result[key] = summary([a / b for a, b in zip(times[one], times[other], strict=True)])
    return result | {
        "rounds": len(times["eager"]),
        "differences": differences,
        "reasons": reasons,
        "wrong": wrong,
        "file_bytes": len(exported.content) if "onnxruntime" in calls else None,
    }


def _line(row: dict[str, Any]) -> str:
    cells = [f"{name} {row[name]['median']:.1f} ms" for name in RUNTIMES if row[name] != "-"]
    cells += [f"{name}: {why}" for name, why in row["reasons"].items()]
    return f"{row['model']} B{row['batch']}: {', '.join(cells)}"
