"""What a file says of itself: metadata that a program needs which only has the file."""

from __future__ import annotations

import json
from collections.abc import Mapping

import timm.data
from torch import nn

import attnzoo


def describe(model: nn.Module, input_size: tuple[int, int, int], classes: int | None = None) -> dict[str, str]:
    """What a file says of itself: text by key, lists as JSON; a key is missing where nothing is known.

    Args:
        model: a model of timm, or any other.
        input_size: channels, height and width of an image.
        classes: width of the logits, where there are some.
    """
    notes = {"input_size": json.dumps(input_size), "attnzoo_version": attnzoo.__version__}
    config = getattr(model, "pretrained_cfg", None)
    if not config:
        return notes
    data = timm.data.resolve_model_data_config(model)
    notes |= {
        "model": str(config.get("architecture", type(model).__name__)),
        "mean": json.dumps(data["mean"]),
        "std": json.dumps(data["std"]),
        "interpolation": data["interpolation"],
        "crop_pct": json.dumps(data["crop_pct"]),
        "crop_mode": data["crop_mode"],
    }
    labels = config.get("label_names")
    if isinstance(labels, Mapping):
        labels = [labels.get(i, labels.get(str(i), "")) for i in range(classes or 0)]
    # a head that was replaced leaves the old names behind
    if labels and len(labels) == classes:
        notes["labels"] = json.dumps(list(labels))
    return notes
