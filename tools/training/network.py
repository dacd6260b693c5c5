"""The model of a recipe, and a word on which of its weights are new."""

from __future__ import annotations

import logging
import pickle
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import nn

from ..files import listed
from .learners import classifier_of
from .optimization import blaming
from .recipe import Recipe

_NAMED = 6


def create_network(recipe: Recipe, num_classes: int) -> tuple[nn.Module, str]:
    """A classifier for the data of a recipe.

    Args:
        recipe: names the model and its arguments.
        num_classes: of the data.

    Returns:
        The model, and what is to be said about where its weights are from.

    Raises:
        ValueError: the recipe contradicts the data, or timm does not take its arguments.
    """
    options = recipe.model_arguments
    if num_classes < 2:
        raise ValueError(f"the data has {num_classes} class: to tell apart there must be two at least")
    # the data decides, and a config that says otherwise is wrong
    if options.pop("num_classes", num_classes) != num_classes:
        raise ValueError(f"model.num_classes must be the classes of the data, {num_classes}: leave it out")
    channels, expected = options.get("in_chans", 3), recipe.data.get("input_size", (3, 224, 224))[0]
    if channels != expected:
        raise ValueError(f"model.in_chans must be the channels of data.input_size, {expected}, got {channels}")
    network, missing = _create(recipe.model["name"], num_classes, options)
    if recipe.grad_checkpointing:
        enable: Any = network.set_grad_checkpointing
        blaming("grad_checkpointing", enable)
    if recipe.channels_last:
        network = network.to(memory_format=torch.channels_last)
    if recipe.freeze == "backbone":
        network.requires_grad_(False)
        classifier_of(network).requires_grad_(True)
    if not options.get("pretrained"):
        return network, "all weights are new"
    return network, _origin(network, recipe.model["name"], missing)


def _create(name: str, num_classes: int, options: dict[str, Any]) -> tuple[nn.Module, list[str]]:
    """A model, and which of its weights the published ones lack."""
    try:
        with _noting_missing() as missing:
            network = blaming("model", timm.create_model, name, num_classes=num_classes, **options)
    # weights that there are none of, cannot be reached, or are another model's
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        if not options.get("pretrained"):
            raise
        # a file that is not there has no words of its own
        reason = str(error) or f"{type(error).__name__} {options.get('pretrained_cfg_overlay', '')}"
        raise ValueError(
            f"model: the published weights of {name} cannot be had: {textwrap.shorten(reason, 200)}. Name a file with "
            "model.pretrained_cfg_overlay.file=..., or start without them, model.pretrained=False"
        ) from error
    if missing and set(missing) >= {key for key, _ in network.named_parameters()}:
        raise ValueError(f"model: the weights that are to be loaded are none of {name}: not one of its names is there")
    return network, missing


@contextmanager
def _noting_missing() -> Iterator[list[str]]:
    """Collects the weights that timm does not find meanwhile: it goes on without them, and says so to its log alone."""
    missing: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        if found := re.match(r"Missing keys \((.*?)\)", record.getMessage()):
            missing.extend(found[1].split(", "))
        # said in the summary instead
        return False

    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(note)
    try:
        yield missing
    finally:
        logger.removeFilter(note)
        logger.setLevel(level)


def _origin(network: nn.Module, name: str, missing: list[str]) -> str:
    """Which weights are published ones, which were fitted to other shapes, and which are new."""
    own = network.state_dict()
    config: Any = network.pretrained_cfg
    # shapes as published, without memory for them
    with torch.device("meta"):
        published = timm.create_model(name, num_classes=config["num_classes"]).state_dict()
    changed = [key for key in own if key in published and own[key].shape != published[key].shape]
    new = [key for key in own if key not in published or key in missing]
    fitted = [key for key in changed if key not in new]
    said = ["pretrained"]
    if new:
        said.append(f"new: {listed(new, _NAMED)}")
    if fitted:
        said.append(f"fitted to other shapes: {listed(fitted, _NAMED)}")
    return "; ".join(said)
