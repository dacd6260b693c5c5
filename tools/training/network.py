"""Creating the model of a recipe, and reporting which of its weights are new."""

from __future__ import annotations

import logging
import pickle
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import timm
import torch
from torch import nn

from ..files import listed, without_function
from ..models import FOR_TRAINING, create_pretrained, not_loaded
from .learners import classifier_of
from .optimization import blaming
from .recipe import Recipe
from .starting import read_start, start_classifier

_NAMED = 6


def create_network(recipe: Recipe, classes: Sequence[str]) -> tuple[nn.Module, str]:
    """Creates the classifier of a recipe.

    Args:
        recipe: the recipe, with the model name and its arguments.
        classes: names of the classes of the data.

    Returns:
        The model, and a description of the origin of its weights.

    Raises:
        ValueError: the recipe does not match the data, or timm does not accept its arguments.
    """
    options, num_classes = recipe.model_arguments, len(classes)
    if num_classes < 2:
        found = f"only {classes[0]!r}" if classes else "none"
        raise ValueError(
            f"the data must have at least 2 classes, got {found}: add images of another class, such as of anything "
            "else, or set data.root to the folder that has a folder of images for each class"
        )
    # the number of classes is taken from the data
    if options.pop("num_classes", num_classes) != num_classes:
        raise ValueError(f"model.num_classes must be the number of classes of the data, {num_classes}: omit it")
    channels, expected = options.get("in_chans", 3), recipe.data.get("input_size", (3, 224, 224))[0]
    if channels != expected:
        raise ValueError(f"model.in_chans must be the channels of data.input_size, {expected}, got {channels}")
    start, name = read_start(recipe.model), recipe.model["name"]
    if start is not None:
        network, origin = start_classifier(start, name, options, classes)
    else:
        network, missing = _create(name, num_classes, options)
        is_random = not options.get("pretrained")
        origin = randomly_initialized(recipe.freeze) if is_random else _origin(network, name, missing)
    prepare_network(network, recipe)
    return network, origin


def prepare_network(network: nn.Module, recipe: Recipe) -> None:
    """Sets what a recipe says on recomputed activations, the memory format and frozen parameters.

    Args:
        network: a network with timm's `set_grad_checkpointing` and `get_classifier`.
        recipe: the recipe.

    Raises:
        ValueError: the network does not support it.
    """
    if recipe.grad_checkpointing:
        enable: Any = network.set_grad_checkpointing
        blaming("grad_checkpointing", enable)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)
    if recipe.freeze == "backbone":
        network.requires_grad_(False)
        classifier_of(network).requires_grad_(True)


def try_size(network: nn.Module, name: str, input_size: Sequence[int]) -> None:
    """Checks that a network takes images of a size.

    Args:
        network: the network; it is left in the mode that it has.
        name: its name, for the message.
        input_size: (C, H, W).

    Raises:
        ValueError: it does not.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            network(torch.zeros(1, *input_size, device=next(network.parameters()).device))
    # models raise various exceptions for a size that they do not take
    except (ValueError, RuntimeError, AssertionError) as error:
        # an argument is a key of the config here
        reason = re.sub(r"\bpass (\w+)=", r"pass model.\1=", str(error))
        size = " x ".join(map(str, input_size))
        raise ValueError(f"model: {name} does not take images of data.input_size, {size}: {reason}") from error
    finally:
        network.train(was_training)


def randomly_initialized(freeze: str) -> str:
    """Describes the origin of random weights, with a remark if they are frozen."""
    frozen = ", and the backbone stays so because it is frozen: set model.pretrained=True" if freeze != "none" else ""
    return f"randomly initialized{frozen}"


def _create(name: str, num_classes: int, options: dict[str, Any]) -> tuple[nn.Module, list[str]]:
    """Creates a model; also returns the names of its weights that are missing from the published ones."""
    try:
        with _noting_missing() as missing:
            chosen = {key: value for key, value in options.items() if key != "pretrained"}
            create = create_pretrained if options.get("pretrained") else timm.create_model
            network = blaming("model", create, name, num_classes=num_classes, **chosen)
    # the weights do not exist, cannot be downloaded, or belong to another model
    except (RuntimeError, OSError, pickle.UnpicklingError) as error:
        if not options.get("pretrained"):
            raise ValueError(f"model: {without_function(error)}") from error
        # the error of a missing file has no message
        told = error if str(error) else OSError(f"{type(error).__name__} {options.get('pretrained_cfg_overlay', '')}")
        raise ValueError(f"model: {not_loaded(name, told, FOR_TRAINING)}") from error
    if missing and set(missing) >= {key for key, _ in network.named_parameters()}:
        raise ValueError(f"model: the weights do not belong to {name}: none of its parameters is among them")
    return network, missing


@contextmanager
def _noting_missing() -> Iterator[list[str]]:
    """Collects the names of the weights that timm reports as missing; it only logs them."""
    missing: list[str] = []

    def note(record: logging.LogRecord) -> bool:
        if found := re.match(r"Missing keys \((.*?)\)", record.getMessage()):
            missing.extend(found[1].split(", "))
        # reported in the summary instead
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
    """Describes which weights are new and which were adapted to another shape."""
    own = network.state_dict()
    config: Any = network.pretrained_cfg
    # the published shapes, without allocating memory
    with torch.device("meta"):
        published = timm.create_model(name, num_classes=config["num_classes"]).state_dict()
    changed = [key for key in own if key in published and own[key].shape != published[key].shape]
    new = [key for key in own if key not in published or key in missing]
    fitted = [key for key in changed if key not in new]
    said = ["pretrained"]
    if new:
        said.append(f"new: {listed(new, _NAMED)}")
    if fitted:
        said.append(f"adapted to another shape: {listed(fitted, _NAMED)}")
    return "; ".join(said)
