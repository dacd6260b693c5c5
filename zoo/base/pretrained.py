"""Published weights of a model: the file of the first source that has them, checked before it is used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import PretrainedCfg, get_pretrained_cfg, load_state_dict
from torch import nn

from .checkpoints import Filter
from .pickled import plain_file
from .sources import UnsuitableError, fetch

# fields of a configuration that locate weights
_SOURCES = {"file", "url", "state_dict", "hf_hub_id"}


def checker(filter_fn: Filter, create: Callable[[], nn.Module]) -> Callable[[Path], None]:
    """Returns a function that checks that a file holds every tensor of the published network, and no others.

    Args:
        filter_fn: converts official names to those of the network.
        create: creates the network.
    """

    def check(path: Path) -> None:
        try:
            weights = load_state_dict(str(plain_file(path)))
        # torch raises exceptions of many classes on a damaged file
        except Exception as error:
            raise UnsuitableError(f"{path.name} cannot be read: {_first_line(error)}", is_damaged=True) from error
        with torch.device("meta"):
            network = create()
        try:
            converted = filter_fn(weights, network)
            difference = _difference(converted, network.state_dict())
        # on the names and shapes of another network
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            difference = _first_line(error)
        if difference:
            raise UnsuitableError(f"{path.name} does not hold the weights of this model: {difference}")

    return check


def with_file(name: str, check: Callable[[Path], None], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments of `build_model_with_cfg` with the file of the first source that has the weights.

    Arguments that say where the weights are stay as they are. The configuration of the model names the source that was
    used.

    Raises:
        WeightsError: no source has the weights.
    """
    overlay = kwargs.get("pretrained_cfg_overlay") or {}
    if isinstance(kwargs.get("pretrained_cfg"), (dict, PretrainedCfg)) or overlay.keys() & _SOURCES:
        return kwargs
    path, source = fetch(name, get_pretrained_cfg(name), check, kwargs.get("cache_dir"))
    used = {
        "file": str(plain_file(path)),
        "url": source.url or None,
        "hf_hub_id": source.repository or None,
        "hf_hub_filename": source.filename or None,
    }
    return {**kwargs, "pretrained_cfg_overlay": {**overlay, **used}}


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def _difference(file: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Describes the names and shapes that differ; empty if all are the same."""
    kinds = {
        "are missing": model.keys() - file.keys(),
        "are not the model's": file.keys() - model.keys(),
        "have another shape": {key for key in file.keys() & model.keys() if file[key].shape != model[key].shape},
    }
    said = [f"{len(keys)} {kind}, such as {min(keys)}" for kind, keys in kinds.items() if keys]
    return f"of its {len(file)} tensors, " + "; ".join(said) if said else ""
