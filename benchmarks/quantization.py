"""`python -m benchmarks quantization`: what int8 costs a small vision transformer, by its kind of attention."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import onnx
import torch
from mmengine import Config
from torch import Tensor, nn

from attnzoo.base import TokenBlock, Tokens
from attnzoo.tools.bench.environment import environment
from attnzoo.tools.bench.report import today, write
from attnzoo.tools.data import open_classification
from attnzoo.tools.export import export_onnx, open_session
from attnzoo.tools.export.precision import answers_of
from attnzoo.tools.export.precision.int8 import Quantiser, to_int8
from attnzoo.tools.models import open_model
from attnzoo.tools.train import train
from attnzoo.tools.training.config import load_config

CONFIG = "classification/digits"
# patches of 2x2 of the eight pixels that the digits were scanned with, and no agents: a plain vision transformer
MODEL = {
    "name": "agent_deit_pico",
    "in_chans": 1,
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 64,
    "num_heads": 4,
    "depths": (2, 2, 1, 1),
    "agent_depths": (0, 0, 0, 0),
}
ATTENTION: dict[str, dict[str, Any]] = {
    "softmax": {},
    "clipped": {"softmax": "clipped", "clip": 0.6},
    "gated": {"gate": "linear", "gate_probability": 0.25},
}
_CALIBRATION = 256
NOTES = [
    "A vision transformer of six blocks of 64 channels, trained with the recipe classification/digits for every kind "
    "of attention and seed, in float32 on one thread; the model of the best epoch is measured on the 360 held-out "
    "digits. `clipped` is a softmax with alpha = 0.6, which is the authors' gamma = -0.003 for the 197 tokens "
    "of a ViT at 224, `gated` has a linear gate per head that starts at 0.25.",
    "`accuracy_int8` is that of a file with all layers in int8; `kept_layers` are those that the export leaves in "
    f"float32. Both are calibrated with {_CALIBRATION} training images. `error_int8` is the root mean square of the "
    "difference of the logits, relative to that of the logits.",
    "`largest` is the largest value in the output of any block, and `kurtosis` the mean over blocks of the kurtosis of "
    "their outputs, 3 for a normal distribution: measures of outliers.",
]


def run_quantization(seeds: Sequence[int], epochs: int, jobs: int, out: Path, say: Callable[[str], None]) -> None:
    """Trains and measures every kind of attention, and writes `quantization-cpu-<date>.json`.

    Args:
        seeds: seeds of the trainings.
        epochs: epochs of each training.
        jobs: processes that train at the same time.
        out: folder for the result file.
        say: prints a line.
    """
    path = out / f"quantization-cpu-{today()}.json"
    head = {"date": today(), **environment(torch.device("cpu")), "epochs": epochs, "notes": NOTES}
    rows: list[dict[str, Any]] = []
    runs = [(name, seed, epochs) for seed in seeds for name in ATTENTION]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        for row in pool.map(_measure, runs):
            rows.append(row)
            say(", ".join(f"{key} {value}" for key, value in row.items()))
            write(path, {**head, "rows": rows})
    say(f"written to {path}")


def _measure(run: tuple[str, int, int]) -> dict[str, Any]:
    """Trains and measures one kind of attention, given its name, the seed and the epochs."""
    torch.set_num_threads(1)
    name, seed, epochs = run
    options = ATTENTION[name]
    config = Config({**load_config(CONFIG), "seed": seed, "epochs": epochs, "model": {**MODEL, **options}})
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            model, _ = open_model(str(train(config, Path(folder) / "run")))
        (images, labels), (calibration, _) = _digits(config, "val"), _digits(config, "train")
        file = Path(folder) / "digits.onnx"
        export_onnx(model, file, dynamic=("batch",))
        proto = onnx.load(file)
    batches = [calibration[:_CALIBRATION]]
    quantiser = Quantiser(proto, batches)
    whole = quantiser.quantise([layer for layers in quantiser.layers.values() for layer in layers])
    exact, rounded = (_logits(file, images) for file in (proto, whole))
    _, kept = to_int8(proto, batches, 0.99)
    return {
        "name": name,
        "seed": seed,
        "accuracy": _share(exact, labels),
        "accuracy_int8": _share(rounded, labels),
        "agreement": _share(rounded, exact.argmax(1)),
        "error_int8": float(f"{((rounded - exact).square().mean() / exact.square().mean()).sqrt():.2e}"),
        "kept_layers": len(kept),
        "layers": len(quantiser.layers),
        **_outliers(model, images),
    }


def _digits(config: Config, split: str) -> tuple[Tensor, Tensor]:
    """Returns all images of a split, preprocessed, and their labels."""
    samples = open_classification(config["data"], split)
    batch = samples.collate([{**samples.load(i), "unreadable": []} for i in range(len(samples))])
    return batch["images"], batch["labels"]


def _logits(file: Any, images: Tensor) -> Tensor:
    (answer,) = answers_of(open_session(file.SerializeToString()), [images])
    return answer["logits"]


def _share(logits: Tensor, labels: Tensor) -> float:
    """Returns the share of logits whose largest is that of the label, in percent."""
    return round(100 * (logits.argmax(1) == labels).float().mean().item(), 2)


def _outliers(model: nn.Module, images: Tensor) -> dict[str, float]:
    """Returns the largest value and the mean kurtosis of the outputs of blocks."""
    found: list[Tensor] = []

    def note(block: nn.Module, inputs: Any, tokens: Tokens) -> None:
        found.append(tokens.x)

    blocks = [module for module in model.modules() if isinstance(module, TokenBlock)]
    hooks = [block.register_forward_hook(note) for block in blocks]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    kurtoses = [((x - x.mean()) ** 4).mean() / x.var(correction=0) ** 2 for x in found]
    largest = max(x.abs().max().item() for x in found)
    return {"largest": round(largest, 2), "kurtosis": round(torch.stack(kurtoses).mean().item(), 2)}
