"""Tasks of a file: the network to trace, the names of its outputs, and their difference to eager.

A task holds a network that maps images (B, C, H, W) to tensors. `Classify` and `Features` are the tasks of a backbone;
`detection/` has the task of a detector, and `segmentation` those of a segmenter.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import timm.data
import torch
from torch import Tensor, nn

import attnzoo

from ..models import check_size
from .sessions import relative_difference

TASKS = ("features", "classify", "detect", "segment", "mask")
# tasks of a segmenter: logits, or the class of each pixel
_OF_SEGMENTERS = ("segment", "mask")


@dataclass(frozen=True)
class Task:
    """A network and its outputs.

    Attributes:
        network: maps images (B, C, H, W) to a tensor or a tuple of tensors, in evaluation mode.
        input_size: channels, height and width of an image.
    """

    network: nn.Module
    input_size: tuple[int, int, int]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the file's outputs."""
        raise NotImplementedError

    def with_network(self, network: nn.Module) -> Task:
        """The same task with another network."""
        return dataclasses.replace(self, network=network)

    def revealing(self, filled: nn.Module | None) -> Task | None:
        """The task with a copy of the network in which the check sees every layer; None if no copy is needed.

        Args:
            filled: a copy with noise in the tensors that were zero; None if there were none.
        """
        return None if filled is None else self.with_network(filled)

    def translations(self) -> Mapping[Any, Callable[..., Any]]:
        """ONNX translations of custom operators, by operator."""
        return {}

    def notes(self) -> dict[str, str]:
        """Metadata of this task, in addition to the metadata of any model."""
        return {}

    def to_range(self, images: Tensor) -> Tensor:
        """Maps images of the check, about -2 .. 2, to the input range of the network."""
        return images

    def expected(self, images: Tensor) -> dict[str, Tensor]:
        """The expected outputs for images (B, C, H, W), by name.

        Raises:
            ValueError: the network does not take images of this size, or returns something else.
        """
        answers = run_network(self.network, images)
        if len(answers) != len(self.outputs):
            raise ValueError(f"the model returned {len(answers)} tensors, expected {len(self.outputs)}")
        return dict(zip(self.outputs, answers, strict=True))

    def difference(self, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
        """Largest difference between the outputs of a file and the expected ones, relative to the largest value."""
        return max(relative_difference(given[name], expected[name]) for name in self.outputs)


@dataclass(frozen=True)
class Classify(Task):
    """`logits` (B, classes) of a classifier."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The name `logits`."""
        return ("logits",)

    def expected(self, images: Tensor) -> dict[str, Tensor]:
        """The logits of images (B, C, H, W).

        Raises:
            ValueError: the network does not take images of this size, or does not return logits.
        """
        expected = super().expected(images)
        logits = expected["logits"]
        if logits.dim() != 2 or len(logits) != len(images):
            raise ValueError(
                f"the model must return logits (B, classes), got {tuple(logits.shape)}: check its pooling and head, or "
                "export the maps of its stages with --task features"
            )
        return expected


@dataclass(frozen=True)
class Features(Task):
    """The feature maps of a backbone's stages; `features_0` (B, C, H, W) is the finest.

    Attributes:
        count: number of maps.
    """

    count: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """One name for each map."""
        return tuple(f"features_{i}" for i in range(self.count))


class StageMaps(nn.Module):
    """The feature maps of a backbone's stages, channels first.

    Args:
        backbone: a timm model with `forward_intermediates`.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """(B, C, H, W) -> maps (B, C, H, W), the finest first."""
        maps: Any = self.backbone.forward_intermediates(images, intermediates_only=True)  # type: ignore[operator]
        return tuple(maps)


@torch.no_grad()
def run_network(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Runs a network and returns its output tensors.

    Raises:
        ValueError: the network does not take images of this size, or returns something else than tensors.
    """
    try:
        answer = network(images)
    except Exception as error:
        size = "x".join(map(str, images.shape[1:]))
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the model does not take images of {size}, choose another image size: {reason}") from error
    answers = answer if isinstance(answer, (tuple, list)) else (answer,)
    if not all(isinstance(x, Tensor) for x in answers):
        raise ValueError(f"the model must return tensors, got {type(answer).__name__}")
    return tuple(answers)


def task_of(model: nn.Module, task: str | None) -> str:
    """The requested task; by default the task of the model."""
    own: str = getattr(model, "export_task", "classify")
    return task or own


def make_task(model: nn.Module, task: str, image_size: tuple[int, int] | None) -> Task:
    """Makes the task of a model.

    Args:
        model: in evaluation mode.
        task: one of `TASKS`.
        image_size: height and width; by default the size of a timm model.

    Raises:
        ValueError: an unknown task, a task that does not fit the model, or a missing or invalid image size.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if task_of(model, None) == "detect":
        if task != "detect":
            raise ValueError(f"the model is a detector: task must be detect, got {task}")
        from .detection import detect

        return detect(model, image_size)  # type: ignore[arg-type]
    if task == "detect":
        raise ValueError(
            f"{type(model).__name__} is not a detector: task detect needs a directory that attnzoo train wrote for "
            "detection; use classify or features for this model"
        )
    if (task in _OF_SEGMENTERS) != (task_of(model, None) == "segment"):
        raise ValueError(
            f"tasks {' and '.join(_OF_SEGMENTERS)} are those of a directory that attnzoo train wrote for segmentation, "
            f"and its only ones: got task {task} for {type(model).__name__}"
        )
    size = input_size_of(model, image_size)
    if task in _OF_SEGMENTERS:
        from .segmentation import segment

        return segment(model, size, task == "mask")  # type: ignore[arg-type]
    if task == "classify":
        return Classify(model, size)
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        raise ValueError(f"{type(model).__name__} has no feature maps of stages: use --task classify for its logits")
    return Features(StageMaps(model).eval(), size, len(model.feature_info))  # type: ignore[arg-type]


def input_size_of(model: nn.Module, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height and width of a model's images.

    Raises:
        ValueError: neither the model nor the caller gives a size, or the size is invalid.
    """
    config = getattr(model, "pretrained_cfg", None)
    if image_size is None and not config:
        raise ValueError(f"image_size is required: {type(model).__name__} is not a timm model and has no default size")
    named = timm.data.resolve_model_data_config(model)["input_size"] if config else (3, 0, 0)
    height, width = image_size or named[1:]
    check_size(image_size)
    return named[0], height, width


def describe(model: nn.Module, input_size: tuple[int, int, int], classes: int | None = None) -> dict[str, str]:
    """Metadata of a file: text by key, lists as JSON; unknown entries are left out.

    Args:
        model: a timm model, or any other.
        input_size: channels, height and width of an image.
        classes: number of classes of the logits; None without logits.
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
    # after a head was replaced, the config still has the old names
    if labels and len(labels) == classes:
        notes["labels"] = json.dumps(list(labels))
    return notes
