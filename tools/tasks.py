"""Where the functions of each task are. They are imported when they are used, and with them what the task needs."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

# by task of a recipe: `train` makes the setup of a training, `evaluate` the metrics of a directory, `predict` a
# predictor of a directory, `draw` a file with the prediction of an image, and `export` opens a directory
_PLACES: dict[str, dict[str, str]] = {
    "classification": {
        "train": "training.classification:classification",
        "evaluate": "evaluate:evaluate_classifier",
        "predict": "predict:open_classifier",
        "draw": "drawing:draw_classes",
        "export": "models:open_model",
    },
    "detection": {
        "train": "detection.training:detection",
        "evaluate": "detection.evaluation:evaluate_detector",
        "predict": "detection.prediction:open_for_prediction",
        "draw": "detection.drawing:draw_found",
        "export": "export.detection:open_with_origin",
    },
    "segmentation": {
        "train": "segmentation.training:segmentation",
        "evaluate": "segmentation.evaluation:evaluate_segmenter",
        "predict": "segmentation.prediction:open_for_prediction",
        "draw": "segmentation.drawing:draw_mask",
        "export": "export.segmentation:open_with_origin",
    },
}
TASKS = tuple(_PLACES)


def function_of(task: str, action: str) -> Callable[..., Any]:
    """Returns the function of a task, one of TASKS, for an action: train, evaluate, predict, draw or export."""
    module, _, name = _PLACES[task][action].partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(f"attnzoo.tools.{module}"), name)
    return function
