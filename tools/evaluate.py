"""`attnzoo evaluate`: how good a model is on pictures that it has not seen."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import timm
import timm.data
import torch
from torch import nn

from .files import replacing

# classes shown, the worst first
_SHOWN = 20


@dataclass(frozen=True)
class Evaluation:
    """What was measured.

    Attributes:
        metrics: by name, shares as 0 .. 1.
        per_class: of each class, by its name: the share recognised, or AP.
        shares: names of metrics that read best in percent.
        unreadable: what was wrong with pictures that were left out.
    """

    metrics: Mapping[str, float]
    per_class: Mapping[str, float]
    shares: Sequence[str]
    unreadable: Sequence[str]


@dataclass(frozen=True)
class Reading:
    """How pictures are read.

    Attributes:
        split: of the data set.
        batch_size: pictures at a time.
        workers: processes that read.
        skip_unreadable: leave out files that are no pictures, and list them.
    """

    split: str = "val"
    batch_size: int = 32
    workers: int = 0
    skip_unreadable: bool = False

    def judge(self, judge: Any, model: nn.Module, samples: Any) -> tuple[dict[str, float], list[str]]:
        """The metrics of a model over samples, and what was unreadable.

        Raises:
            ValueError: a file cannot be read and is not to be skipped.
        """
        from .data import open_loader, val_batches

        found: list[str] = []

        def note(messages: list[str]) -> None:
            if messages and not self.skip_unreadable:
                raise ValueError(f"{messages[0]}; remove the file, or use --skip-unreadable")
            found.extend(messages)

        loader = open_loader(samples, val_batches(samples, self.batch_size), self.workers)
        return judge(model, loader, note), found


def evaluate(
    model: str,
    data: Mapping[str, Any],
    reading: Reading | None = None,
    *,
    pretrained: bool = False,
    worst: Path | None = None,
) -> Evaluation:
    """Judges a model on a data set, prepared the way the model wants its pictures.

    Args:
        model: a directory that `attnzoo train` wrote, or a name of timm.
        data: a recipe's `data`: the name of a data set and what it takes (`attnzoo.tools.data`); how pictures are
            prepared is said by the model, and by `data` where it differs.
        reading: how pictures are read.
        pretrained: load the published weights of a name.
        worst: for a detector, a folder for the pictures that it did worst on.

    Raises:
        ValueError: an unknown model or data set, classes that the model does not know, a file that cannot be read.
        FileNotFoundError: a folder is not there.
    """
    import attnzoo  # noqa: F401  registers the models

    from .models import is_detector

    reading = reading or Reading()
    if is_detector(model):
        from .detection.evaluation import evaluate_detector

        return evaluate_detector(Path(model), data, reading, worst)
    if worst is not None:
        raise ValueError("pictures of the worst cases are drawn for detectors: leave --worst out")
    return _evaluate_classifier(model, data, reading, pretrained)


def _evaluate_classifier(model: str, data: Mapping[str, Any], reading: Reading, pretrained: bool) -> Evaluation:
    from .data import PREPROCESSING, open_classification
    from .metrics import ClassificationJudge
    from .models import open_model

    network, _ = open_model(model, pretrained=pretrained)
    wanted = timm.data.resolve_model_data_config(network)
    samples = open_classification({**{key: wanted[key] for key in PREPROCESSING}, **data}, reading.split)
    order = label_order(_labels(network), samples.classes, int(network.num_classes))  # type: ignore[arg-type]
    judge = ClassificationJudge(len(samples.classes), device())
    metrics, unreadable = reading.judge(judge, Reordered(network.to(device()), order), samples)
    return Evaluation(metrics, dict(zip(samples.classes, judge.per_class, strict=True)), judge.shares, unreadable)


def device() -> torch.device:
    """The GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Reordered(nn.Module):
    """A classifier whose logits stand in the order of a data set's classes.

    Args:
        model: images to logits (B, classes).
        order: which logit is which class; None changes nothing.
    """

    def __init__(self, model: nn.Module, order: Sequence[int] | None) -> None:
        super().__init__()
        self.model, self.order = model, None if order is None else list(order)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, classes)."""
        logits: torch.Tensor = self.model(images)
        return logits if self.order is None else logits[:, self.order]


def label_order(known: Sequence[str] | None, classes: Sequence[str], count: int) -> list[int] | None:
    """Where a model has the classes of a data set.

    Args:
        known: the model's class names; None where it has none, and the order is taken to be that of the data set.
        classes: of the data set.
        count: logits of the model.

    Raises:
        ValueError: the model does not know a class, or has another number of unnamed ones.
    """
    if known is None:
        if count != len(classes):
            raise ValueError(
                f"the model tells {count} classes apart and has no names for them, the data {len(classes)}"
            )
        return None
    if missing := [name for name in classes if name not in known]:
        shown = ", ".join(missing[:8]) + (" ..." if len(missing) > 8 else "")
        raise ValueError(f"the model does not know {len(missing)} of the {len(classes)} classes of the data: {shown}")
    order = [list(known).index(name) for name in classes]
    return None if order == list(range(count)) else order


def _labels(network: nn.Module) -> list[str] | None:
    config: Any = network.pretrained_cfg
    labels = config.get("label_names")
    return None if not labels or len(labels) != network.num_classes else [str(label) for label in labels]


@click.command("evaluate", context_settings={"show_default": True})
@click.argument("model")
@click.argument("config", required=False)
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--split", default="val", help="Part of the data set.")
@click.option("--batch-size", type=click.IntRange(1), default=32, help="Pictures at a time.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Processes that read pictures.")
@click.option("--skip-unreadable", is_flag=True, help="Leave files out that are no pictures, and list them.")
@click.option("--pretrained", is_flag=True, help="Load the published weights of a name.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file to write the metrics to.")
@click.option("--worst", type=click.Path(path_type=Path, file_okay=False), help="Folder for a detector's worst cases.")
def evaluate_command(
    model: str, config: str | None, options: tuple[str, ...], pretrained: bool, output: Path | None,
    worst: Path | None, **reading: Any,
) -> None:  # fmt: skip
    """Judge a model on a data set.

    MODEL is a directory that `attnzoo train` wrote, or a name (`attnzoo list`, or any other of timm). The data is that
    of CONFIG, a training config or the name of a packaged one, or is given as data.name=... data.root=....

    \b
    Examples:
      attnzoo evaluate runs/digits/model classification/digits
      attnzoo evaluate nat_tiny --pretrained data.name=imagefolder data.root=imagenet
    """
    from .training.config import data_of

    result = evaluate(model, data_of(config, options), Reading(**reading), pretrained=pretrained, worst=worst)
    _print(result)
    if output is not None:
        with replacing(output) as fresh:
            fresh.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")


def _print(result: Evaluation) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(*result.metrics)
    table.add_row(*(f"{v:.2%}" if k in result.shares else f"{v:.4g}" for k, v in result.metrics.items()))
    console.print(table)
    worst = sorted(result.per_class.items(), key=lambda entry: entry[1])
    table = Table("class", "", title="worst classes" if len(worst) > _SHOWN else None)
    for name, value in worst[:_SHOWN]:
        table.add_row(name, f"{value:.2%}")
    console.print(table)
    if result.unreadable:
        console.print(f"{len(result.unreadable)} files could not be read and were left out:")
        for message in result.unreadable[:_SHOWN]:
            console.print(f"  {message}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["evaluate", *sys.argv[1:]])
