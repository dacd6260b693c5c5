"""`attnzoo evaluate`: the metrics of a model on a data set."""

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

from .files import check_writable, replacing
from .models import RANDOM, is_random

# number of classes shown, the worst first
_SHOWN = 20


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        metrics: metrics by name; percentages are stored as 0 .. 1.
        per_class: accuracy or AP by class name.
        shares: names of the metrics that are shown in percent.
        unreadable: one message for each image that was skipped.
        preprocessing: how the images were preprocessed, by key of a recipe's `data` or `detector`.
        remarks: other files that were skipped; empty if there were none.
    """

    metrics: Mapping[str, float]
    per_class: Mapping[str, float]
    shares: Sequence[str]
    unreadable: Sequence[str]
    preprocessing: Mapping[str, Any]
    remarks: str = ""


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        split: split of the data set, "train", "val" or another one that it has.
        batch_size: images per batch.
        workers: number of data loading processes.
        skip_unreadable: skip and list files that cannot be read, instead of raising an error.
    """

    split: str = "val"
    batch_size: int = 32
    workers: int = 0
    skip_unreadable: bool = False

    def judge(self, judge: Any, model: nn.Module, samples: Any) -> tuple[dict[str, float], list[str]]:
        """Returns the metrics of a model on samples, and a message for each file that cannot be read.

        Raises:
            ValueError: a file cannot be read and `skip_unreadable` is off.
        """
        from .data import explaining_workers, open_loader, val_batches

        found: list[str] = []

        def note(messages: list[str]) -> None:
            if messages and not self.skip_unreadable:
                raise ValueError(f"{messages[0]}; remove the file, or pass --skip-unreadable")
            found.extend(messages)

        loader = open_loader(samples, val_batches(samples, self.batch_size), self.workers)
        with explaining_workers():
            return judge(model, loader, note), found


def evaluate(
    model: str,
    data: Mapping[str, Any],
    reading: Reading | None = None,
    *,
    pretrained: bool = False,
    worst: Path | None = None,
) -> Evaluation:
    """Evaluates a model on a data set.

    Args:
        model: a directory that `attnzoo train` wrote, or a model name in timm.
        data: a recipe's `data`: the name of a data set and its arguments (`attnzoo.tools.data`). Images are
            preprocessed as the model's config says, unless `data` overrides it.
        reading: how images are read.
        pretrained: load the published weights; for model names.
        worst: for a detector, a folder for drawings of its worst images.

    Raises:
        ValueError: an unknown model or data set, classes that the model does not know, or a file that cannot be read.
        FileNotFoundError: a folder does not exist.
    """
    import attnzoo  # noqa: F401  registers the models

    from .models import is_detector

    reading = reading or Reading()
    if is_detector(model):
        from .detection.evaluation import evaluate_detector

        return evaluate_detector(Path(model), data, reading, worst)
    if worst is not None:
        raise ValueError("--worst is for detectors, got a classifier: omit it")
    return _evaluate_classifier(model, data, reading, pretrained)


def _evaluate_classifier(model: str, data: Mapping[str, Any], reading: Reading, pretrained: bool) -> Evaluation:
    from .data import PREPROCESSING, open_classification, preprocessing
    from .metrics import ClassificationJudge
    from .models import open_model

    network, _ = open_model(model, pretrained=pretrained)
    wanted = timm.data.resolve_model_data_config(network)
    data = {**{key: wanted[key] for key in PREPROCESSING}, **data}
    samples = open_classification(data, reading.split)
    order = label_order(_labels(network), samples.classes, int(network.num_classes))  # type: ignore[arg-type]
    judge = ClassificationJudge(len(samples.classes), device())
    metrics, unreadable = reading.judge(judge, Reordered(network.to(device()), order), samples)
    per_class = dict(zip(samples.classes, judge.per_class, strict=True))
    return Evaluation(metrics, per_class, judge.shares, unreadable, preprocessing(data), samples.remarks)


def device() -> torch.device:
    """Returns the GPU if there is one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


class Reordered(nn.Module):
    """A classifier whose logits are reordered to the classes of a data set.

    Args:
        model: maps images to logits (B, classes).
        order: index of each class among the model's logits; None keeps the order.
    """

    def __init__(self, model: nn.Module, order: Sequence[int] | None) -> None:
        super().__init__()
        self.model, self.order = model, None if order is None else list(order)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, classes)."""
        logits: torch.Tensor = self.model(images)
        return logits if self.order is None else logits[:, self.order]


def label_order(known: Sequence[str] | None, classes: Sequence[str], count: int) -> list[int] | None:
    """Returns the index of each class of a data set among the logits of a model; None if the order is the same.

    Args:
        known: the model's class names; None if it has none. The order is then assumed to be that of the data set.
        classes: classes of the data set.
        count: number of logits of the model.

    Raises:
        ValueError: the model does not know a class, or has no class names and another number of classes.
    """
    if known is None:
        if count != len(classes):
            raise ValueError(
                f"the model has no class names and must have the {len(classes)} classes of the data, got {count}"
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
@click.option("--split", default="val", help="Split of the data set: train, val, or another one that it has.")
@click.option("--batch-size", type=click.IntRange(1), default=32, help="Images per batch.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Number of data loading processes.")
@click.option("--skip-unreadable", is_flag=True, help="Skip and list files that cannot be read, instead of stopping.")
@click.option("--pretrained", is_flag=True, help="Load the published weights; for model names.")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file for the metrics.")
@click.option(
    "--worst",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for drawings of a detector's worst images.",
)
def evaluate_command(
    model: str, config: str | None, options: tuple[str, ...], pretrained: bool, output: Path | None,
    worst: Path | None, **reading: Any,
) -> None:  # fmt: skip
    """Evaluate a model on a data set.

    MODEL is a directory that `attnzoo train` wrote (the work directory or the model in it), or a model name (see
    `attnzoo list`, or any model of timm). The data set is the one of CONFIG, a training config or the name of a
    packaged one, or it is given by data.name=... data.root=... Images have the size and the preprocessing of the model,
    whatever CONFIG says; data.input_size=... data.crop_pct=... and so on override them.

    \b
    Examples:
      attnzoo evaluate runs/digits classification/digits
      attnzoo evaluate runs/pictures data.name=imagefolder data.root=pictures --split test
      attnzoo evaluate nat_tiny --pretrained data.name=imagefolder data.root=imagenet
    """
    from .training.config import data_of

    for folder in (output and output.parent, worst):
        if folder is not None:
            check_writable(folder, "choose another folder")
    result = evaluate(model, data_of(config, options), Reading(**reading), pretrained=pretrained, worst=worst)
    if is_random(model, pretrained):
        click.echo(RANDOM, err=True)
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
    shown = ", ".join(f"{key} {_plain(value)}" for key, value in result.preprocessing.items())
    console.print(f"preprocessing: {shown}", markup=False, soft_wrap=True)
    worst = sorted(result.per_class.items(), key=lambda entry: entry[1])
    table = Table(
        "class",
        "accuracy" if "accuracy" in result.metrics else "AP",
        title="worst classes" if len(worst) > _SHOWN else None,
    )
    for name, value in worst[:_SHOWN]:
        table.add_row(name, f"{value:.2%}")
    console.print(table)
    if result.remarks:
        console.print(result.remarks, markup=False, soft_wrap=True)
    if result.unreadable:
        console.print(f"{len(result.unreadable)} files could not be read and were skipped:")
        for message in result.unreadable[:_SHOWN]:
            console.print(f"  {message}", markup=False, soft_wrap=True)


def _plain(value: Any) -> str:
    if not isinstance(value, (list, tuple)):
        return str(value)
    return (" x " if all(isinstance(x, int) for x in value) else " ").join(f"{x:.4g}" for x in value)


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["evaluate", *sys.argv[1:]])
