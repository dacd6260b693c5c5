"""What a file is for: what is traced, how the outputs are called, and how far they may be from eager's.

A task holds a network that maps images (B, C, H, W) to tensors. `Classify` and `Features` are the tasks of a backbone;
`detection/` has that of a detector.
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

TASKS = ("features", "classify", "detect")


@dataclass(frozen=True)
class Task:
    """A network and what its outputs are.

    Attributes:
        network: maps images (B, C, H, W) to a tensor, or to a tuple of them, in evaluation mode.
        input_size: channels, height and width of an image.
    """

    network: nn.Module
    input_size: tuple[int, int, int]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the file's outputs."""
        raise NotImplementedError

    def with_network(self, network: nn.Module) -> Task:
        """The same task of another network."""
        return dataclasses.replace(self, network=network)

    def revealing(self, filled: nn.Module | None) -> Task | None:
        """The task of a copy in which nothing hides from the check; None where nothing hides in the network itself.

        Args:
            filled: a copy with noise in what was zero; None where nothing was.
        """
        return None if filled is None else self.with_network(filled)

    def translations(self) -> Mapping[Any, Callable[..., Any]]:
        """How operators that are not torch's own are written as ONNX, by operator."""
        return {}

    def notes(self) -> dict[str, str]:
        """What the file is to say of this task, beside what it says of any model."""
        return {}

    def to_range(self, images: Tensor) -> Tensor:
        """Images of about -2 .. 2, as the check makes them, in the range that the network takes."""
        return images

    def expected(self, images: Tensor) -> dict[str, Tensor]:
        """What the file is to give for images (B, C, H, W), by the names of its outputs.

        Raises:
            ValueError: the network does not take images of this size, or gives something else.
        """
        answers = run_network(self.network, images)
        if len(answers) != len(self.outputs):
            raise ValueError(f"the model gave {len(answers)} tensors, and {len(self.outputs)} are expected")
        return dict(zip(self.outputs, answers, strict=True))

    def difference(self, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
        """How far a file's answers are from the expected ones, as a share of the largest number of an output."""
        return max(relative_difference(given[name], expected[name]) for name in self.outputs)


@dataclass(frozen=True)
class Classify(Task):
    """`logits` (B, classes) of a classifier."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """One, `logits`."""
        return ("logits",)

    def expected(self, images: Tensor) -> dict[str, Tensor]:
        """The logits of images (B, C, H, W).

        Raises:
            ValueError: the network does not take images of this size, or gives no logits.
        """
        expected = super().expected(images)
        logits = expected["logits"]
        if logits.dim() != 2 or len(logits) != len(images):
            raise ValueError(
                f"the model must give logits (B, classes), it gave {tuple(logits.shape)}: is its pooling or head "
                "removed? --task features exports the maps of its stages"
            )
        return expected


@dataclass(frozen=True)
class Features(Task):
    """The maps of a backbone's stages, `features_0` (B, C, H, W) the finest.

    Attributes:
        count: number of maps.
    """

    count: int

    @property
    def outputs(self) -> tuple[str, ...]:
        """One for each map."""
        return tuple(f"features_{i}" for i in range(self.count))


class StageMaps(nn.Module):
    """The maps of a backbone's stages, channels first.

    Args:
        backbone: a model of timm with `forward_intermediates`.
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
    """The tensors that a network gives.

    Raises:
        ValueError: it does not take images of this size, or gives something else than tensors.
    """
    try:
        answer = network(images)
    except Exception as error:
        size = "x".join(map(str, images.shape[1:]))
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"the model does not take images of {size}, choose another image size: {reason}") from error
    answers = answer if isinstance(answer, (tuple, list)) else (answer,)
    if not all(isinstance(x, Tensor) for x in answers):
        raise ValueError(f"the model must give tensors, it gave {type(answer).__name__}")
    return tuple(answers)


def task_of(model: nn.Module, task: str | None) -> str:
    """The task that was asked for, or else the one that a model is made for."""
    own: str = getattr(model, "export_task", "classify")
    return task or own


def make_task(model: nn.Module, task: str, image_size: tuple[int, int] | None) -> Task:
    """What a file of a model is for.

    Args:
        model: in evaluation mode.
        task: one of `TASKS`.
        image_size: height and width; by default what a model of timm names.

    Raises:
        ValueError: an unknown task, or one that the model is not for; an unknown or impossible image size.
    """
    if task not in TASKS:
        raise ValueError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if task_of(model, None) == "detect":
        if task != "detect":
            raise ValueError(f"the model is a detector: its file is for task detect, got {task}")
        from .detection import detect

        return detect(model, image_size)  # type: ignore[arg-type]
    if task == "detect":
        raise ValueError(
            f"{type(model).__name__} is no detector: task detect takes a directory that attnzoo train wrote for "
            "detection, and classify or features this model"
        )
    size = input_size_of(model, image_size)
    if task == "classify":
        return Classify(model, size)
    if not hasattr(model, "forward_intermediates") or not hasattr(model, "feature_info"):
        raise ValueError(f"{type(model).__name__} gives no maps of its stages: --task classify exports its logits")
    return Features(StageMaps(model).eval(), size, len(model.feature_info))  # type: ignore[arg-type]


def input_size_of(model: nn.Module, image_size: tuple[int, int] | None) -> tuple[int, int, int]:
    """Channels, height and width of a model's images.

    Raises:
        ValueError: neither the model nor the caller says, or the size is none.
    """
    config = getattr(model, "pretrained_cfg", None)
    if image_size is None and not config:
        raise ValueError(f"image_size is needed: {type(model).__name__} is not a model of timm and names none itself")
    named = timm.data.resolve_model_data_config(model)["input_size"] if config else (3, 0, 0)
    height, width = image_size or named[1:]
    check_size(image_size)
    return named[0], height, width


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
