"""Training of segmenters: data, model and loss of a recipe.

A recipe with `task="segmentation"` has `decoder` (`attnzoo.tools.segmentation.network.create_segmenter`), the keys of
`attnzoo.tools.segmentation.data` in `data`, and a list of torchvision transforms in `augment`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..files import listed
from ..stored import save_network
from ..training.learners import Classifier, class_weights
from ..training.network import prepare_network, randomly_initialized, try_size
from ..training.optimization import blaming
from ..training.processes import Processes
from ..training.recipe import Recipe
from ..training.setup import OF_SPLITS, Setup, check_classes, describe_data
from ..training.starting import read_start
from .data import SegmentedImages, open_segmentation
from .metrics import SegmentationJudge
from .network import create_segmenter
from .sources import IGNORED, IndexMasks, Source

LOSSES = ("cross_entropy", "dice", "focal")
# of more classes that are not named, most must have a pixel
_MANY = 256


def segmentation(recipe: Recipe, processes: Processes) -> Setup:
    """Opens the data of a recipe and creates its segmenter.

    Args:
        recipe: a recipe of the task "segmentation".
        processes: the processes of the training.

    Raises:
        ValueError: the recipe is invalid or does not match the data.
        FileNotFoundError: a file or folder does not exist.
        ImportError: segmentation-models-pytorch is not installed.
    """
    train_set = open_segmentation(recipe.data, "train", recipe.augment)
    val_set = open_segmentation(recipe.data, "val")
    check_classes({"the training data": train_set.classes, "the validation data": val_set.classes}, OF_SPLITS)
    classes, prepared = list(train_set.classes), train_set.prepare.stored
    given = recipe.loss.get("weight")
    _check_count(train_set)
    # all masks are read for it
    counts = train_set.pixels_per_class() if given == "balanced" else None
    absent = _absent(train_set, counts)
    ignored = "; ".join(filter(None, (train_set.ignored("training"), val_set.ignored("validation"))))
    name, arguments = recipe.model["name"], recipe.model_arguments
    channels = prepared["input_size"][0]
    if arguments.setdefault("in_chans", channels) != channels:
        raise ValueError(f"model.in_chans must be the channels of data.input_size, {channels}: omit it")
    start = read_start(recipe.model)
    if start is not None and start.task != "classification":
        raise ValueError(f"model.weights: a segmenter starts from a classifier, {start.given} is for {start.task}")
    if start is not None:
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": start.overlay}
    network = create_segmenter(name, arguments, recipe.decoder, classes, prepared)
    prepare_network(network, recipe)
    loss = create_loss(recipe.loss, class_weights(given, len(classes), counts))
    learner = Classifier(network, loss, channels_last=recipe.channels_last, frozen=recipe.freeze == "backbone")
    # report errors of the augmentation or the data here, not from a worker
    train_set.try_out(recipe.seed)
    try_size(network, name, prepared["input_size"])

    def save(trained: nn.Module, directory: Path) -> None:
        save_network(
            trained, directory, "segmentation", name, arguments, classes, prepared, decoder=dict(recipe.decoder)
        )

    size = " x ".join(map(str, prepared["input_size"]))
    origin = "pretrained backbone" if arguments.get("pretrained") else randomly_initialized(recipe.freeze)
    origin = origin if start is None else f"backbone from {start.given}"
    return Setup(
        learner=learner,
        network=network,
        train_set=train_set,
        val_set=val_set,
        judge=SegmentationJudge(len(classes), prepared["input_size"][1:], processes.device),
        save=save,
        facts={
            "model": f"{recipe.decoder['name']} on {name}, input {size}, {origin}",
            "data": describe_data(train_set, val_set, recipe.data["name"]),
            **({"masks": absent} if absent else {}),
            **({"ignored": ignored} if ignored else {}),
        },
    )


def _check_count(samples: SegmentedImages) -> None:
    """Checks that there are two classes at least, which masks of 0 and 255 do not have, and not many without a pixel.

    Raises:
        ValueError: there are fewer; or the classes are the values of the masks, and most of many do not occur.
    """
    classes, values = samples.classes, _values(samples.source)
    found = classes if values is None else [classes[label] for label in sorted(values)]
    if len(found) < 2:
        got = listed([repr(name) for name in found]) or "none"
        hint = (
            "a mask has the index of the class of each pixel, or data.values lists those of the classes, as in [0,255]"
        )
        told = "" if values is None else f": {'; '.join(filter(None, (samples.ignored('training'), hint)))}"
        raise ValueError(f"the data must have at least two classes, got {got}{told}")
    if len(classes) > _MANY and 2 * len(found) < len(classes):
        raise ValueError(_absent(samples, None))


def _values(source: Source) -> set[int] | None:
    """The labels that occur if the classes are the values of the training masks; None if the classes are given."""
    return source.present - {IGNORED} if isinstance(source, IndexMasks) and source.present is not None else None


def _absent(samples: SegmentedImages, counts: Sequence[int] | None) -> str:
    """Describes the classes that have no pixel in the training masks; empty if each has some.

    Args:
        samples: training data.
        counts: number of pixels of each class; None if they were not counted.

    Raises:
        ValueError: no class has any.
    """
    classes, total, values = samples.classes, len(samples), _values(samples.source)
    present, read = values or {label for label, count in enumerate(counts or ()) if count}, total
    if not present:
        present, read = samples.labels_present()
    absent = [name for label, name in enumerate(classes) if label not in present]
    if not absent:
        return ""
    where = "the training masks" if read == total else f"{read} of the {total} training masks"
    if present == {IGNORED} and read == total:
        raise ValueError(f"no class has a pixel in {where}: {samples.ignored('training') or 'all are ignored'}")
    said = f"{len(absent)} of {len(classes)} classes {'has' if len(absent) == 1 else 'have'} no pixel in {where}"
    if values is None:
        return f"{said}: {listed(absent)}"
    found = [classes[label] for label in sorted(values)]
    return (
        f"{said}, whose values are {listed(found)}: set data.values=[{','.join(found[:8])}"
        f"{',...' if len(found) > 8 else ''}] if each is a class, or name the classes with data.class_map"
    )


class PixelLoss(nn.Module):
    """The sum of losses over the pixels that are not ignored; 0 if all are.

    Args:
        losses: each maps logits (B, K, H, W) and labels (B, H, W) to a scalar.
    """

    def __init__(self, losses: list[nn.Module]) -> None:
        super().__init__()
        self.losses = nn.ModuleList(losses)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B, K, H, W), (B, H, W) -> scalar."""
        # the mean over no pixel is not a number
        if not (labels != IGNORED).any():
            return logits.sum() * 0
        total: Tensor = sum(loss(logits, labels) for loss in self.losses)
        return total


def create_loss(options: Mapping[str, Any], weight: Tensor | None = None) -> nn.Module:
    """Creates the loss of a recipe.

    Args:
        options: `name`, one of LOSSES or a list of them, which are added; `label_smoothing` and `weight` of the cross
            entropy (see `class_weights`); `gamma` of the focal loss.
        weight: weight of each class (classes,).

    Raises:
        ValueError: an unknown loss or option.
    """
    from segmentation_models_pytorch.losses import DiceLoss, FocalLoss

    settings = {key: value for key, value in options.items() if key != "weight" and value is not None}
    names = settings.pop("name", "cross_entropy")
    names = list(names) if isinstance(names, (list, tuple)) else [names]
    if not names or (unknown := [name for name in names if name not in LOSSES]) or len(set(names)) < len(names):
        raise ValueError(
            f"loss.name must be one of {', '.join(LOSSES)}, or a list of them, each once, got {unknown or names}"
        )
    of_each: dict[str, tuple[Any, dict[str, Any], str]] = {
        "cross_entropy": (nn.CrossEntropyLoss, {"weight": weight}, "label_smoothing"),
        "dice": (DiceLoss, {"mode": "multiclass"}, ""),
        "focal": (FocalLoss, {"mode": "multiclass"}, "gamma"),
    }
    losses = []
    for name in names:
        make, common, own = of_each[name]
        chosen = {own: settings.pop(own)} if own in settings else {}
        losses.append(blaming("loss", make, ignore_index=IGNORED, **common, **chosen))
    if settings or (weight is not None and "cross_entropy" not in names):
        raise ValueError(f"loss: {next(iter(settings), 'weight')} is no option of {', '.join(names)}")
    return PixelLoss(losses)
