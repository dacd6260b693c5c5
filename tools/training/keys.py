"""The names of the keys in the dicts of a recipe, which are arguments of other libraries."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import mmengine.visualization
from timm.data import Mixup, create_transform
from timm.loss import BinaryCrossEntropy
from timm.optim import create_optimizer_v2, get_optimizer_class, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3

from attnzoo_command.keys import guess, unknown_key

# timm has no list of them
_SCHEDULES = ("cosine", "tanh", "step", "multistep", "poly", "constant", "none")
# backends of mmengine's visualizer, by the name of their package
TRACKERS = {"wandb": "WandbVisBackend", "mlflow": "MLflowVisBackend"}


def check_keys(values: Mapping[str, Any]) -> None:
    """Checks the names of keys, before data is read and weights are downloaded.

    Those of `data`, `detector`, `decoder` and of a list in `augment` are checked where they are used, and those of
    `model` by `near_argument`, because only the network knows them.

    Args:
        values: the keys of a recipe.

    Raises:
        ValueError: a key is unknown; the message has the nearest one.
    """
    task = str(values.get("task", "classification"))
    known: dict[str, Callable[[Mapping[str, Any]], list[str]]] = {
        "optimizer": _of_optimizer,
        "schedule": lambda given: arguments(create_scheduler_v2, "optimizer"),
        "mixup": lambda given: arguments(Mixup, "num_classes", "label_smoothing"),
        "ema": lambda given: arguments(ModelEmaV3, "model"),
        "augment": lambda given: arguments(create_transform, "is_training"),
        "loss": lambda given: _of_loss(given, task),
        "tracker": _of_tracker,
    }
    for owner, names_in in known.items():
        given = values.get(owner)
        if not isinstance(given, Mapping) or not (names := names_in(given)):
            continue
        for key in given:
            if key not in names:
                raise ValueError(unknown_key(f"{owner}.{key}", given[key], names, task))


def arguments(function: Callable[..., Any], *without: str) -> list[str]:
    """Returns the names of the arguments of a function or a class."""
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name not in without and parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
    ]


def near_argument(error: Exception) -> str:
    """Returns " (did you mean ...?)" for a schedule of timm, or an argument of the class of a timm model.

    It is empty if the error is another one, or nothing is near.
    """
    if scheduler := re.search(r"Unknown scheduler '(.*)'", str(error)):
        return guess(scheduler[1], _SCHEDULES)
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if found is None:
        return ""
    # timm's function that creates a model from its class
    frames = traceback.walk_tb(error.__traceback__)
    classes = [frame.f_locals["model_cls"] for frame, _ in frames if "model_cls" in frame.f_locals]
    return guess(found[1], [name for taker in classes for name in arguments(taker)])


def _of_optimizer(given: Mapping[str, Any]) -> list[str]:
    """Returns no names if the optimizer is not installed, which timm reports, or takes any."""
    name = str(given.get("opt", "sgd")).lower().removeprefix("lookahead_")
    try:
        optimizer: Any = get_optimizer_class(name, False)
    except ValueError as error:
        raise ValueError(f"optimizer.opt: timm has no optimizer {name!r}{guess(name, list_optimizers())}") from error
    except (AssertionError, ImportError):
        return []
    if any(x.kind is x.VAR_KEYWORD for x in inspect.signature(optimizer).parameters.values()):
        return []
    own = arguments(create_optimizer_v2, "model_or_params", "param_group_fn")
    return list(dict.fromkeys([*own, *arguments(optimizer, "params")]))


def _of_loss(given: Mapping[str, Any], task: str) -> list[str]:
    names = ["name", "label_smoothing", "weight"]
    if task == "segmentation":
        return [*names, "gamma"]
    return names + (arguments(BinaryCrossEntropy, "smoothing", "weight") if given.get("name") == "bce" else [])


def _of_tracker(given: Mapping[str, Any]) -> list[str]:
    backend = TRACKERS.get(str(given.get("name")))
    if backend is None:
        return []
    return ["name", *arguments(getattr(mmengine.visualization, backend), "save_dir")]
