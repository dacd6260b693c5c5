"""Weights of ours for programs without attnzoo: the networks of timm."""

from __future__ import annotations

import re
from typing import Any

import timm
import torch
from torch import nn

from attnzoo.base import checkpoint_filter

from .inversion import restored
from .listing import is_ours, names

# the weights of one network of timm are a model each here
_TAGS = re.compile(r"_22k(?:to1k)?$")

# largest difference of logits between both networks, relative to the largest logit
_TOLERANCE = 1e-4


def timms_name(model: str) -> str:
    """Returns timm's name of a network of ours.

    Raises:
        ValueError: timm has no such network.
    """
    name = _TAGS.sub("", model.removeprefix("zoo_"))
    if name != model and timm.is_model(name) and not is_ours(name):
        return name
    # such as zoo_swin and zoo_halonet
    families = dict.fromkeys(re.split(r"(?<=[a-z])(?=[\d_])", other.removeprefix("zoo_"))[0] for other in _prefixed())
    those = ", ".join(f"zoo_{family}*" for family in families)
    raise ValueError(f"timm has no network {model}: --to timm takes {those}")


def _prefixed() -> list[str]:
    return [name for name in names() if name.startswith("zoo_")]


def timms_network(network: Any, model: str) -> nn.Module:
    """Returns timm's network with the weights of ours.

    Raises:
        ValueError: timm has no such network, or computes something else at this size or with these arguments.
    """
    name = timms_name(model)
    size = network.pretrained_cfg["input_size"]
    arguments: dict[str, Any] = {"num_classes": network.num_classes, "in_chans": network.in_chans}
    config = timm.get_pretrained_cfg(name)
    assert config is not None
    if config.fixed_input_size and tuple(config.input_size[1:]) != tuple(size[1:]):
        arguments["img_size"] = tuple(size[1:])
    theirs = timm.create_model(name, **arguments)
    try:
        shapes = {key: tensor.shape for key, tensor in theirs.state_dict().items()}
        weights = restored(network.state_dict(), network, checkpoint_filter(model), shapes)
        theirs.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"timm's {name} is another network than this {model}: {reason}") from error
    _check_logits(network, theirs, name)
    return theirs


def _check_logits(network: Any, theirs: nn.Module, name: str) -> None:
    size = network.pretrained_cfg["input_size"]
    images = torch.randn(1, network.in_chans, *size[1:], generator=torch.Generator().manual_seed(0))
    modes = network.training, theirs.training
    with torch.no_grad():
        ours, found = network.eval()(images), theirs.eval()(images)
    network.train(modes[0])
    theirs.train(modes[1])
    difference = float((found - ours).abs().max() / ours.abs().max())
    # also if it is not a number
    if not difference <= _TOLERANCE:
        raise ValueError(
            f"timm's {name} gives other logits at {size[1]}x{size[2]}, by {difference:.1e} of the largest: maps that "
            "windows do not divide are padded differently there"
        )
