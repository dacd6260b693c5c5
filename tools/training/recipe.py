"""A recipe: what a config must and may say, checked once, before anything is built."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import timm
from mmengine import Config
from mmengine.config import DictAction

PRECISIONS = ("float32", "bfloat16")
# These change how a run goes, not where it ends: a resumed run may change them
FREE_TO_CHANGE = ("workers", "log_interval")


@dataclass(frozen=True)
class Recipe:
    """The keys of a training config.

    Args:
        model: `name` of a timm model, and arguments of `timm.create_model`.
        data: `name` of a data set, its arguments, and how its images are prepared (`attnzoo.tools.data`).
        epochs: passes over the training data.
        batch_size: images per step.
        optimizer: arguments of `timm.optim.create_optimizer_v2`.
        schedule: mmengine parameter schedulers, [{"type": "OneCycleLR", ...}]; a constant rate without.
        loss: arguments of `torch.nn.CrossEntropyLoss`.
        aux_loss_weight: of the loss of an auxiliary head, for models that have one; 0.4 is what OverLoCK was trained
            with.
        augment: torchvision transforms of the training images, [{"type": "RandomAffine", ...}].
        seed: of weights, order and augmentation.
        precision: "float32", or "bfloat16" for autocast; weights and evaluation stay in float32.
        workers: processes that read data; 0 reads in the training process.
        log_interval: steps between two TensorBoard points.
    """

    model: dict[str, Any]
    data: dict[str, Any]
    epochs: int
    batch_size: int
    optimizer: dict[str, Any]
    schedule: list[dict[str, Any]] = field(default_factory=list)
    loss: dict[str, Any] = field(default_factory=dict)
    aux_loss_weight: float = 0.4
    augment: list[dict[str, Any]] = field(default_factory=list)
    seed: int = 0
    precision: str = "float32"
    workers: int = 0
    log_interval: int = 10

    @classmethod
    def from_config(cls, config: Config) -> Recipe:
        """Reads and checks a config.

        Raises:
            ValueError: an unknown or missing key, or a value that cannot be; says which, and what is allowed.
        """
        values = config.to_dict()
        allowed = {entry.name: entry for entry in dataclasses.fields(cls)}
        for key in values:
            if key not in allowed:
                raise ValueError(
                    f"{key} is no key of a training config{_guess(key, allowed)}: use {', '.join(allowed)}"
                )
        required = [name for name, entry in allowed.items() if _is_required(entry)]
        if missing := [key for key in required if key not in values]:
            raise ValueError(f"the config lacks {', '.join(missing)}")
        recipe = cls(**values)
        recipe._check()
        return recipe

    def _check(self) -> None:
        for key, least in (("epochs", 1), ("batch_size", 1), ("workers", 0), ("log_interval", 1), ("seed", 0)):
            value = getattr(self, key)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{key} must be an integer of at least {least}, got {value!r}")
        weight = self.aux_loss_weight
        if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not weight >= 0:
            raise ValueError(f"aux_loss_weight must be a number of at least 0, got {weight!r}")
        for key in ("model", "data", "optimizer", "loss"):
            if not isinstance(getattr(self, key), dict):
                raise ValueError(f"{key} must be a dict, got {getattr(self, key)!r}")
        for key in ("schedule", "augment"):
            entries = getattr(self, key)
            if not isinstance(entries, list) or not all(isinstance(x, dict) and "type" in x for x in entries):
                raise ValueError(f'{key} must be a list of dicts that each have a "type", got {entries!r}')
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")
        name = self.model.get("name")
        if not isinstance(name, str) or not timm.is_model(name):
            names = timm.list_models()
            raise ValueError(f"model.name must be a model known to timm, got {name!r}{_guess(str(name), names)}")
        # timm's own schedulers apply the factors of layer decay, mmengine's would drop them without a word
        if self.optimizer.get("layer_decay") is not None:
            raise ValueError("optimizer.layer_decay is not supported by the schedulers used here: leave it out")

    def to_json(self) -> str:
        """What decides where a run ends, as text: equal for equal runs."""
        decisive = {k: v for k, v in dataclasses.asdict(self).items() if k not in FREE_TO_CHANGE}
        return json.dumps(decisive, sort_keys=True)


def load_config(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config file.

    Args:
        name: a path to an mmengine Python config, or the name of a packaged one, "classification/digits".
        overrides: "key=value" or "key.key=value", as mmengine reads them.

    Raises:
        FileNotFoundError: neither a file nor a packaged config.
        ValueError: a file that cannot be read as a config, an override without "=".
    """
    path = Path(name)
    if not path.is_file():
        packaged = packaged_configs()
        if str(name) not in packaged:
            raise FileNotFoundError(
                f"no config {str(name)!r}: give the path of a Python file, or one of {', '.join(packaged)}"
            )
        path = packaged[str(name)]
    if path.suffix != ".py":
        raise ValueError(f"a training config is a Python file (.py), got {path}")
    try:
        config = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f"{path} is not valid Python: {error}") from error
    if overrides:
        config.merge_from_dict(_parse(overrides))
    return config


def packaged_configs() -> dict[str, Path]:
    """The configs that are installed with attnzoo, by name."""
    # a wheel is always unpacked: the resources are files
    root = Path(str(resources.files("attnzoo.configs")))
    found = sorted(path for path in root.rglob("*.py") if path.name != "__init__.py")
    return {path.relative_to(root).with_suffix("").as_posix(): path for path in found}


def _parse(overrides: Sequence[str]) -> dict[str, Any]:
    for override in overrides:
        if "=" not in override:
            raise ValueError(f"an override must read key=value, got {override!r}")
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="+", action=DictAction)
    parsed: dict[str, Any] = parser.parse_args(["--cfg-options", *overrides]).cfg_options
    return parsed


def _is_required(entry: dataclasses.Field[Any]) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _guess(word: str, words: Any) -> str:
    close = difflib.get_close_matches(word, list(words), 1)
    return f" (did you mean {close[0]}?)" if close else ""
