"""What a file is for: what is traced, how the outputs are called, and how far they may be from eager's.

A task holds a network that maps images (B, C, H, W) to tensors. `Classify` and `Features` are the tasks of a backbone;
`detection.py` has that of a detector.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .sessions import relative_difference


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
