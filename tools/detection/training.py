"""Training of detectors: data, model and evaluation of a recipe.

A recipe with `task="detection"` has the fields of `DetectorOptions` in `detector`, the keys of
`attnzoo.tools.detection.data` in `data`, and a list of torchvision transforms that support boxes in `augment`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from mmengine.model import BaseDataPreprocessor, BaseModel
from torch import Tensor, nn

from ..data.samples import Draw
from ..training.network import randomly_initialized
from ..training.optimization import blaming
from ..training.processes import Processes
from ..training.recipe import Recipe
from ..training.setup import Setup, check_classes, describe_data
from ..training.starting import read_start, start_detector
from .data import open_detection
from .detectors import Detector, create_detector
from .files import save_detector
from .metrics import DetectionJudge
from .options import DetectorOptions


class DetectionLearner(BaseModel):
    """A detector as an mmengine model, with the losses of the detector."""

    def __init__(self, detector: Detector) -> None:
        super().__init__(BaseDataPreprocessor(non_blocking=True))
        self.detector = detector

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None, mode: str = "tensor"
    ) -> Any:
        """Losses by name in mode "loss", detections otherwise."""
        return self.detector(images, targets) if mode == "loss" else self.detector(images)


def detection(recipe: Recipe, processes: Processes) -> Setup:
    """Opens the data of a recipe and creates its detector.

    Args:
        recipe: a recipe with the task "detection".
        processes: the processes that train together.

    Raises:
        ValueError: the recipe names something unknown, or contradicts itself or the data.
        FileNotFoundError: a file or folder does not exist.
    """
    options = DetectorOptions.from_dict(recipe.detector)
    with_masks, channels = options.head == "mask_rcnn", recipe.model.get("in_chans", 3)
    if channels not in (1, 3):
        raise ValueError(f"model.in_chans must be 1 (grey) or 3 (RGB), got {channels!r}")
    if not isinstance(recipe.augment, list):
        raise ValueError("augment must be a list of torchvision transforms for detection, got a dict")
    train_set = open_detection(recipe.data, "train", recipe.augment, channels, with_masks)
    val_set = open_detection(recipe.data, "val", None, channels, with_masks)
    classes = list(train_set.classes)
    check_classes({"the training data": classes, "the validation data": val_set.classes})
    mean, std = _normalisation(recipe, channels)
    name, arguments = recipe.model["name"], recipe.model_arguments
    start = read_start(recipe.model)
    if start is not None and start.task == "detection":
        arguments = {key: value for key, value in arguments.items() if key != "pretrained"}
        # as for pretrained weights
        frozen = True if options.frozen_batchnorm is None else options.frozen_batchnorm
        options = dataclasses.replace(options, frozen_batchnorm=frozen)
    elif start is not None:
        arguments |= {"pretrained": True, "pretrained_cfg_overlay": start.overlay}
    network = create_detector(name, arguments, options, len(classes), mean, std)
    origin = "pretrained backbone" if arguments.get("pretrained") else randomly_initialized(recipe.freeze)
    if start is not None:
        is_whole = start.task == "detection"
        origin = start_detector(start, network, classes) if is_whole else f"backbone from {start.given}"
    _prepare(network, recipe)
    # an error in the augmentation or the data is raised here, not in a worker
    _try(network.to(processes.device), train_set[Draw(0, recipe.seed)]["images"], name)

    def save(trained: nn.Module, directory: Path) -> None:
        assert isinstance(trained, Detector)
        save_detector(trained, directory, name, arguments, options, classes, mean, std)

    strides = ", ".join(map(str, network.backbone.strides))
    return Setup(
        learner=DetectionLearner(network),
        network=network,
        train_set=train_set,
        val_set=val_set,
        judge=DetectionJudge(classes, processes, with_masks),
        save=save,
        facts={
            "model": f"{options.head} on {name}, strides {strides}, {origin}",
            "images": options.describe_resizing(),
            "data": describe_data(train_set, val_set, recipe.data["name"]),
        },
    )


def _normalisation(recipe: Recipe, channels: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel: from the data, or else from the config of the backbone."""
    published = timm.get_pretrained_cfg(recipe.model["name"], allow_unregistered=True)
    chosen = []
    for key, usual in (("mean", 0.5), ("std", 0.5)):
        values = recipe.data.get(key, getattr(published, key, None))
        if values is None or (key not in recipe.data and len(values) != channels):
            values = (usual,) * channels
        if not isinstance(values, (list, tuple)) or len(values) != channels:
            raise ValueError(f"data.{key} must be {channels} numbers, one for each channel, got {values!r}")
        chosen.append([float(value) for value in values])
    return chosen[0], chosen[1]


def _prepare(network: Detector, recipe: Recipe) -> None:
    if recipe.grad_checkpointing:
        blaming("grad_checkpointing", network.set_grad_checkpointing)
    if recipe.channels_last:
        network.to(memory_format=torch.channels_last)
        network.backbone.memory_format = torch.channels_last
    if recipe.freeze == "backbone":
        network.freeze_backbone()


@torch.inference_mode()
def _try(network: Detector, image: Tensor, name: str) -> None:
    """Checks before training that the backbone takes images of this size."""
    network.eval()
    try:
        network([image.to(next(network.parameters()).device)])
    # models raise various exceptions for a size that they do not take
    except (ValueError, RuntimeError, AssertionError) as error:
        size = " x ".join(map(str, image.shape[:0:-1]))
        raise ValueError(
            f"model: {name} does not take an image of {size} pixels after resizing "
            f"(detector.size, min_size, max_size): {error}"
        ) from error
