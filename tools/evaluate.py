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

from attnzoo_command.devices import DeviceCommand, device_option
from attnzoo_command.steps import counted, step

from .devices import choose_device, describe_device
from .files import check_writable, replacing
from .images import with_remedy
from .lettering import note_not_drawn
from .models import RANDOM, check_model, config_of_run, is_random, stored_task
from .tasks import function_of


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        metrics: metrics by name; percentages are stored as 0 .. 1.
        per_class: results by class name, the deciding one first: of a classifier `f1`, `precision`, `recall` and
            number of `images`; of a detector `AP`, `AP50` and number of `objects`; of a segmenter `IoU` and `accuracy`.
        shares: names of the metrics that are shown in percent.
        unreadable: one message for each image that was skipped.
        preprocessing: how the images were preprocessed, by key of a recipe's `data` or `detector`.
        device: the device, in words.
        remarks: other files that were skipped, and pixels that were ignored; empty if there were none.
        confused: the most frequent mistakes of a classifier: `true` and `predicted` class and number of `images`.
    """

    metrics: Mapping[str, float]
    per_class: Mapping[str, Mapping[str, float]]
    shares: Sequence[str]
    unreadable: Sequence[str]
    preprocessing: Mapping[str, Any]
    device: str
    remarks: str = ""
    confused: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Reading:
    """How images are read.

    Attributes:
        split: split of the data set, "train", "val" or another one that it has.
        batch_size: images per batch.
        workers: number of data loading processes.
        skip_unreadable: skip and list files that cannot be read, instead of raising an error.
        flip: average with the prediction for the mirror image.
    """

    split: str = "val"
    batch_size: int = 32
    workers: int = 0
    skip_unreadable: bool = False
    flip: bool = False

    def judge(self, judge: Any, model: nn.Module, samples: Any) -> tuple[dict[str, float], list[str]]:
        """Returns the metrics of a model on samples, and a message for each file that cannot be read.

        Raises:
            ValueError: a file cannot be read and `skip_unreadable` is off.
        """
        from .data import explaining_workers, open_loader, val_batches

        found: list[str] = []

        def note(messages: list[str]) -> None:
            advance()
            if messages and not self.skip_unreadable:
                raise ValueError(with_remedy(messages[0], "remove the file, or pass --skip-unreadable"))
            found.extend(messages)

        device = next(model.parameters()).device
        loader = open_loader(samples, val_batches(samples, self.batch_size), self.workers, device)
        with explaining_workers(), counted("evaluating batches", -(-len(samples) // self.batch_size)) as advance:
            return judge(model, loader, note), found


def evaluate(
    model: str,
    data: Mapping[str, Any],
    reading: Reading | None = None,
    *,
    pretrained: bool = False,
    worst: Path | None = None,
    device: str = "auto",
) -> Evaluation:
    """Evaluates a model on a data set.

    Args:
        model: a directory that `attnzoo train` wrote, or a model name in timm.
        data: a recipe's `data`: the name of a data set and its arguments (`attnzoo.tools.data`). Images are
            preprocessed as the model's config says, unless `data` overrides it.
        reading: how images are read.
        pretrained: load the published weights; for model names.
        worst: a folder for drawings of the worst images, of a classifier also of its confusion matrix.
        device: name of the device to run on, see `attnzoo.tools.devices.choose_device`.

    Raises:
        ValueError: an unknown model, data set or device, classes that the model does not know, or a file that cannot be
            read.
        FileNotFoundError: a folder does not exist.
    """
    import attnzoo  # noqa: F401  registers the models

    step(f"opening {model} and the data")
    of_task = function_of(stored_task(model), "evaluate")
    place = choose_device(device)
    result: Evaluation = of_task(model, data, reading or Reading(), place, pretrained=pretrained, worst=worst)
    return result


def evaluate_classifier(
    model: str, data: Mapping[str, Any], reading: Reading, device: torch.device, *, pretrained: bool, worst: Path | None
) -> Evaluation:
    """Evaluates a classifier, see `evaluate`."""
    from .confusion import most_confused, write_confusion
    from .data import PREPROCESSING, ClassifiedImages, open_classification, preprocessing
    from .flips import FlippedClassifier
    from .metrics import ClassificationJudge
    from .mistakes import draw_mistakes
    from .models import open_model

    network, _ = open_model(model, pretrained=pretrained)
    wanted = timm.data.resolve_model_data_config(network)
    data = {**{key: wanted[key] for key in PREPROCESSING}, **data}
    samples = open_classification(data, reading.split)
    order = label_order(_labels(network), samples.classes, int(network.num_classes))  # type: ignore[arg-type]
    judge = ClassificationJudge(len(samples.classes), device, is_detailed=True)
    ordered = Reordered(FlippedClassifier(network) if reading.flip else network, order)
    metrics, unreadable = reading.judge(judge, ordered.to(device), samples)
    per_class = dict(zip(samples.classes, judge.per_class, strict=True))
    confused = [] if judge.confusion is None else most_confused(judge.confusion, samples.classes)
    if worst is not None and judge.confusion is not None:
        write_confusion(worst, judge.confusion, samples.classes)
    # images in shards cannot be opened by name
    if worst is not None and isinstance(samples, ClassifiedImages):
        draw_mistakes(judge.images, samples, worst)
    prepared, said = preprocessing(data), describe_device(device)
    return Evaluation(metrics, per_class, judge.shares, unreadable, prepared, said, samples.remarks, confused)


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


@click.command("evaluate", cls=DeviceCommand, context_settings={"show_default": True})
@click.argument("model")
@click.argument("config", required=False)
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--split", default="val", help="Split of the data set: train, val, or another one that it has.")
@click.option("--batch-size", type=click.IntRange(1), default=32, help="Images per batch.")
@click.option("--workers", type=click.IntRange(0), default=0, help="Number of data loading processes.")
@click.option("--skip-unreadable", is_flag=True, help="Skip and list files that cannot be read, instead of stopping.")
@click.option("--flip", is_flag=True, help="Average with the prediction for the mirror image.")
@click.option("--pretrained", is_flag=True, help="Load the published weights; for model names.")
@device_option
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="JSON file for the metrics.")
@click.option(
    "--worst",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for drawings of the worst images, and of a classifier's confusion matrix.",
)
def evaluate_command(
    model: str, config: str | None, options: tuple[str, ...], pretrained: bool, output: Path | None,
    worst: Path | None, device: str, **reading: Any,
) -> None:  # fmt: skip
    """Evaluate a model on a data set.

    MODEL is a directory that `attnzoo train` wrote (the work directory or the model in it), or a model name (see
    `attnzoo list`, or any model of timm). The data set is the one of CONFIG, a training config or the name of a
    packaged one, or it is given by data.name=... data.root=..., or it is the one that a directory was trained on, in
    which data.root=... takes another folder. Images have the size and the preprocessing of the model, whatever CONFIG
    says; data.input_size=... data.crop_pct=... and so on override them.

    \b
    Examples:
      attnzoo evaluate runs/digits
      attnzoo evaluate nat_pico classification/digits
      attnzoo evaluate runs/pictures data.name=imagefolder data.root=pictures --split test
      attnzoo evaluate nat_tiny --pretrained data.name=imagefolder data.root=imagenet
    """
    from .printing import print_evaluation
    from .training.config import data_of

    where: Any = {"worst": worst, "device": device}
    choose_device(device)
    check_model(model)
    if config is not None and "=" in config:
        options, config = (config, *options), None
    if config is None and not any(option.startswith("data.name=") for option in options):
        config = config_of_run(model)
    data = data_of(config, options)
    # created when the model and the data are known
    for folder in (output and output.parent, worst):
        if folder is not None:
            check_writable(folder, "choose another folder")
    result = evaluate(model, data, Reading(**reading), pretrained=pretrained, **where)
    if is_random(model, pretrained):
        click.echo(RANDOM, err=True)
    print_evaluation(result)
    if worst is not None:
        click.echo(f"the worst images are drawn in {worst}")
        # masks are drawn without the names of their classes
        if stored_task(model) != "segmentation":
            note_not_drawn(result.per_class)
    if output is not None:
        with replacing(output) as fresh:
            fresh.write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")


if __name__ == "__main__":
    import sys

    from attnzoo.tools.cli import main

    main(["evaluate", *sys.argv[1:]])
