"""Weights to start from: those of one's own trained directory, the key `model.weights` of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
from timm.models import split_model_name_tag
from torch import Tensor, nn

from ..files import check_sums, listed, without_function
from ..models import model_directory, read_config
from ..stored import CONFIG, WEIGHTS

# layers of torchvision's detectors with rows for each class, and the number of rows for a class
_ROWS = {
    "head.classification_head.cls_logits": 1,
    "roi_heads.box_predictor.cls_score": 1,
    "roi_heads.box_predictor.bbox_pred": 4,
    "roi_heads.mask_predictor.mask_fcn_logits": 1,
}


@dataclass(frozen=True)
class Start:
    """A trained directory.

    Attributes:
        given: the value of `model.weights`.
        folder: the folder with its config and weights.
        task: task of the model.
        classes: its class names; empty if it has none.
        overlay: entries of timm's `pretrained_cfg` with which the weights are loaded.
        arguments: arguments of `timm.create_model` that it was trained with.
    """

    given: str
    folder: Path
    task: str
    classes: Sequence[str]
    overlay: Mapping[str, Any]
    arguments: Mapping[str, Any]


def read_start(model: Mapping[str, Any]) -> Start | None:
    """Reads the config of the directory in `model.weights` of a recipe; None if there is none.

    Raises:
        FileNotFoundError: there is no trained model.
        ValueError: the model is damaged, or another one than `model.name`.
    """
    given, name = model.get("weights"), model["name"]
    if given is None:
        return None
    folder = Path(model_directory(str(given)))
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise FileNotFoundError(
            f"model.weights: {given} has no trained model: set it to the work directory of a training, or to its model/"
        )
    check_sums(folder)
    config = read_config(folder)
    trained = config.get("architecture")
    if trained != split_model_name_tag(name)[0]:
        raise ValueError(f"model.weights: {given} has the weights of {trained}, set model.name={trained}, got {name}")
    published = config.get("pretrained_cfg", {})
    classes = [str(label) for label in config.get("label_names") or published.get("label_names") or []]
    overlay = {"file": str(folder / WEIGHTS), "num_classes": published.get("num_classes", len(classes))}
    if "input_size" in published:
        overlay["input_size"] = published["input_size"]
    task = config.get("task", "classification")
    return Start(str(given), folder, task, classes, overlay, config.get("model_args", {}))


def start_classifier(start: Start, name: str, options: Mapping[str, Any], classes: Sequence[str]) -> tuple[Any, str]:
    """Creates a classifier with the weights of a directory. What it has learned of classes of the data is kept.

    Args:
        start: the directory.
        name: name of the model.
        options: further arguments of `timm.create_model`.
        classes: classes of the data.

    Returns:
        The model, and a description of the origin of its weights.

    Raises:
        ValueError: the directory holds no classifier, or the weights do not fit.
    """
    if start.task != "classification":
        raise ValueError(f"model.weights: {start.given} is for {start.task}, a classifier starts from a classifier")
    chosen = {key: value for key, value in options.items() if key != "pretrained"}
    chosen |= {"pretrained": True, "pretrained_cfg_overlay": start.overlay, "num_classes": start.overlay["num_classes"]}
    try:
        network = timm.create_model(name, **chosen)
    # timm raises various exceptions for weights that do not fit
    except (RuntimeError, OSError, TypeError, ValueError, AssertionError, KeyError) as error:
        raise _unfit(start, name, error) from error
    before = dict(network.named_parameters())
    if list(start.classes) != list(classes):
        network.reset_classifier(len(classes))
        for key, fresh in network.named_parameters():
            known = before.get(key)
            if known is not None and known is not fresh:
                fresh.data = _rows(fresh.data, known.data, start.classes, classes)
    return network, _described(start, classes, "its classifier")


def start_detector(start: Start, network: nn.Module, classes: Sequence[str]) -> str:
    """Loads the weights of a detector's directory. What it has learned of classes of the data is kept.

    Args:
        start: the directory, of a detector.
        network: the detector that starts, with any head.
        classes: classes of the data.

    Returns:
        A description of the origin of its weights.

    Raises:
        ValueError: the weights do not fit.
    """
    from safetensors.torch import load_file

    weights, own = load_file(start.folder / WEIGHTS), network.state_dict()
    taken: dict[str, Tensor] = {}
    for key, fresh in own.items():
        known = weights.get(key)
        rows = _ROWS.get(key.removeprefix("model.").rpartition(".")[0])
        if known is None:
            continue
        if rows is not None:
            # the heads of two-stage detectors have a row of the background before the classes
            taken[key] = _rows(fresh, known, start.classes, classes, rows, int("roi_heads" in key))
        elif known.shape == fresh.shape:
            taken[key] = known
    if not any(".backbone.body." in key for key in taken):
        raise _unfit(start, "the backbone", ValueError("no tensor has its shape there"))
    network.load_state_dict({**own, **taken})
    new = [key for key in own if key not in taken]
    return _described(start, classes, "its head") + (f"; new: {listed(new, 4)}" if new else "")


def _rows(
    fresh: Tensor, known: Tensor, before: Sequence[str], classes: Sequence[str], rows: int = 1, first: int = 0
) -> Tensor:
    """Returns `fresh` with the rows of `known` for the classes that both have.

    Args:
        fresh: (A (first + classes) rows, ...), A anchors.
        known: the same for the classes before.
        before: names of the classes of `known`.
        classes: names of the classes of `fresh`.
        rows: rows of a class.
        first: classes before the first, such as the background, which are kept.
    """
    if fresh.shape == known.shape and list(before) == list(classes):
        return known
    parts = [(len(names) + first) * rows for names in (classes, before)]
    if fresh.shape[1:] != known.shape[1:] or len(fresh) % parts[0] or len(known) % parts[1]:
        return known if fresh.shape == known.shape else fresh
    anchors = len(fresh) // parts[0]
    if anchors != len(known) // parts[1]:
        return fresh
    answer = fresh.clone().reshape(anchors, parts[0] // rows, -1)
    source = known.reshape(anchors, parts[1] // rows, -1)
    places = {name: row + first for row, name in enumerate(before)}
    answer[:, :first] = source[:, :first]
    for row, name in enumerate(classes):
        if name in places:
            answer[:, row + first] = source[:, places[name]]
    return answer.reshape(fresh.shape)


def _described(start: Start, classes: Sequence[str], head: str) -> str:
    kept = sum(name in start.classes for name in classes)
    if list(start.classes) == list(classes):
        return f"from {start.given} with {head}"
    return f"from {start.given}, {kept} of {len(classes)} classes of {head} kept, the others are new"


def _unfit(start: Start, name: str, error: Exception) -> ValueError:
    reason = without_function(error).strip().split("\n")[0].rstrip(":")
    trained = ", ".join(f"model.{key}={value}" for key, value in start.arguments.items())
    hint = f"; it was trained with {trained}" if trained else ""
    return ValueError(f"model.weights: {start.given} cannot be loaded into {name}: {reason}{hint}")
