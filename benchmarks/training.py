"""`python -m benchmarks training`: the overhead of the training loop over bare steps, and how fast images are read."""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import Config
from mmengine.hooks import Hook
from PIL import Image
from timm.optim import create_optimizer_v2
from torch.nn.functional import cross_entropy

from attnzoo.tools.bench.environment import environment
from attnzoo.tools.bench.report import plain, table, today, write
from attnzoo.tools.data import open_classification, open_loader, train_batches
from attnzoo.tools.data.samples import seeded
from attnzoo.tools.timing import summary, take_turns
from attnzoo.tools.training.processes import Processes
from attnzoo.tools.training.recipe import Recipe
from attnzoo.tools.training.runner import TrainingRunner
from attnzoo.tools.training.session import run

CPU = torch.device("cpu")
WORKERS = (0, 1, 2)
# about the size of ImageNet's images
_WIDTH, _HEIGHT = 500, 375
_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "immunohistochemistry")
AUGMENT = {"auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "color_jitter": 0.4}
LOOP_COLUMNS = {
    "model": "model",
    "batch": "images per step",
    "loop": "images/s in the loop",
    "bare": "images/s of bare steps",
    "ratio": "time in the loop / bare",
    "waiting": "waiting for images",
    "cpu_ratio": "CPU time in the loop / bare",
}
LOADING_COLUMNS = {"workers": "workers", "images_per_second": "images/s", "seeding": "share of seeding"}
NOTES = [
    "float32, one thread for the model, JPEG files of 500 x 375 pixels at 224 x 224 with RandAugment, colour jitter "
    "and random erasing, read by one worker. The loop is that of `attnzoo train` with all its hooks. Every few steps "
    "it pauses for the same number of bare steps (forward, cross-entropy, backward, AdamW) of a copy of the model on "
    "one of its batches; ratios are taken between neighbouring turns. Waiting is the share of the loop's time spent "
    "waiting for a batch. CPU time is that of the training process, which other processes disturb less.",
]
LOADING_NOTES = [
    "The training loader alone, batches of 16, the same files and augmentation. The clock starts with the first batch "
    "that the workers have not read ahead. Seeding is the time to set and restore the random state for a sample, as a "
    "share of one process's time per image.",
]


class Turns(Hook):
    """Interleaves bare steps with those of the loop.

    Args:
        steps: steps of a turn; the first turn, in which caches fill, is not counted.
    """

    # after all other hooks, so that their time counts for the loop
    priority = "LOWEST"

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.loop: list[float] = []
        self.bare: list[float] = []
        self.waiting: list[float] = []
        self.cpu: list[float] = []
        self._begin = self._begin_cpu = self._waited = self._idle_since = 0.0

    def before_train(self, runner: TrainingRunner) -> None:
        """Copies the network for the bare steps."""
        self._network = copy.deepcopy(runner.network)
        self._optimizer = create_optimizer_v2(self._network, **runner.recipe.optimizer)

    def before_train_iter(self, runner: TrainingRunner, batch_idx: int, data_batch: Any = None) -> None:
        """Adds the time spent waiting for the batch."""
        self._waited += time.perf_counter() - self._idle_since

    def after_train_iter(self, runner: TrainingRunner, batch_idx: int, data_batch: Any = None, **_: Any) -> None:
        """At the end of a turn of the loop, runs a turn of bare steps."""
        self._idle_since = time.perf_counter()
        if (batch_idx + 1) % self.steps:
            return
        now, spent = time.perf_counter(), time.process_time() - self._begin_cpu
        if self._begin:
            self.loop.append((now - self._begin) / self.steps)
            self.waiting.append(self._waited / self.steps)
        for step in range(self.steps + 1):
            if step == 1:
                # the step before is a warm-up
                begin, begin_cpu = time.perf_counter(), time.process_time()
            self._step(data_batch)
        if self._begin:
            self.bare.append((time.perf_counter() - begin) / self.steps)
            self.cpu.append(spent / (time.process_time() - begin_cpu))
        self._begin = self._idle_since = time.perf_counter()
        self._begin_cpu = time.process_time()
        self._waited = 0.0

    def _step(self, batch: dict[str, Any]) -> None:
        cross_entropy(self._network(batch["images"]), batch["labels"]).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()


def run_training(models: Sequence[str], quick: bool, out: Path, say: Callable[[str], None]) -> None:
    """Measures on the CPU, prints two tables, and writes `training-cpu-<date>.json` and `loading-cpu-<date>.json`.

    Args:
        models: names that timm knows, trained at 224 pixels.
        quick: run turns of two steps, on few images.
        out: folder for the files.
        say: prints a line.
    """
    torch.set_num_threads(1)
    head = {"date": today(), **environment(CPU)}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write_photographs(root, 32 if quick else 192)
        rows = [_loop_row(name, root, quick) for name in models]
        loop = {**head, "notes": NOTES, "columns": LOOP_COLUMNS, "rows": rows}
        _report(out / f"training-cpu-{today()}.json", loop, say)
        loading = {**head, "notes": LOADING_NOTES, "columns": LOADING_COLUMNS, "rows": _loading_rows(root, quick)}
        _report(out / f"loading-cpu-{today()}.json", loading, say)


def _report(path: Path, results: dict[str, Any], say: Callable[[str], None]) -> None:
    write(path, results)
    columns = results["columns"]
    say(table(tuple(columns.values()), [tuple(plain(row[key]) for key in columns) for row in results["rows"]]))
    say(f"written to {path}")


def _write_photographs(root: Path, count: int) -> None:
    """Writes JPEG files in two classes: random crops of scikit-image's photographs."""
    import skimage.data

    random = np.random.default_rng(0)
    for index in range(count):
        whole = Image.fromarray(getattr(skimage.data, _PHOTOGRAPHS[index % len(_PHOTOGRAPHS)])()).convert("RGB")
        width = int(random.integers(whole.width // 2, whole.width + 1))
        height = min(whole.height, width * _HEIGHT // _WIDTH)
        left, top = (int(random.integers(0, n + 1)) for n in (whole.width - width, whole.height - height))
        part = whole.crop((left, top, left + width, top + height)).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
        for split in ("train", "val"):
            path = root / split / f"class{index % 2}" / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            buffer = io.BytesIO()
            part.save(buffer, "jpeg", quality=90)
            path.write_bytes(buffer.getvalue())


def _loop_row(name: str, root: Path, quick: bool) -> dict[str, Any]:
    batch = 4 if quick else 8
    turns = Turns(2 if quick else 4)
    recipe = Recipe.from_config(
        Config(
            {
                "model": {"name": name},
                "data": {"name": "imagefolder", "root": str(root), "input_size": (3, 224, 224)},
                "augment": AUGMENT,
                "epochs": 1,
                "batch_size": batch,
                "optimizer": {"opt": "adamw", "lr": 1e-4},
                "workers": 1,
            }
        )
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run(recipe, Path(folder), None, Processes(0, 1, CPU), [turns])
    pairs = list(zip(turns.loop, turns.bare, strict=True))
    return {
        "model": name,
        "batch": batch,
        "turns": len(pairs),
        "loop": summary([batch / loop for loop, _ in pairs]),
        "bare": summary([batch / bare for _, bare in pairs]),
        "ratio": summary([loop / bare for loop, bare in pairs]),
        "waiting": summary([waited / loop for waited, loop in zip(turns.waiting, turns.loop, strict=True)]),
        "cpu_ratio": summary(turns.cpu),
    }


def _loading_rows(root: Path, quick: bool) -> list[dict[str, Any]]:
    rounds = 1 if quick else 3
    rates: dict[int, list[float]] = {workers: [] for workers in WORKERS}
    for _ in range(rounds):
        for workers in WORKERS:
            rates[workers].append(_rate(root, workers, 4 if quick else 16))
    seeding = summary(take_turns({"seeding": _seed_one}, 5, 2.0)["seeding"])["median"]
    alone = summary(rates[0])["median"]
    return [
        {"workers": workers, "images_per_second": summary(found), "seeding": float(f"{seeding * alone:.2g}")}
        for workers, found in rates.items()
    ]


def _seed_one() -> None:
    with seeded(1):
        pass


def _rate(root: Path, workers: int, batch: int) -> float:
    data = {"name": "imagefolder", "root": str(root), "input_size": (3, 224, 224)}
    samples = open_classification(data, "train", AUGMENT)
    batches = train_batches(samples, batch, workers=workers)
    batches.start(0, 0)
    count, begin, loader = 0, 0.0, open_loader(samples, batches, workers, CPU)
    # before the first batch arrives, each worker reads two
    ahead = max(1, 2 * workers)
    for index, _ in enumerate(loader, 1):
        if index == ahead:
            begin = time.perf_counter()
        elif index > ahead:
            count += batch
    return count / (time.perf_counter() - begin)
