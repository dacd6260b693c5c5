"""The task of segmentation: logits of each pixel, or the class of each pixel."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from attnzoo.blocks import pool_to

from ..files import sha256
from ..models import model_directory
from ..segmentation.files import open_segmenter
from ..segmentation.network import Segmenter
from ..stored import WEIGHTS
from .sessions import relative_difference
from .tasks import Task, run_network


class ClassOfPixel(nn.Module):
    """A segmenter that returns the class of each pixel.

    Args:
        segmenter: returns logits.
    """

    def __init__(self, segmenter: nn.Module) -> None:
        super().__init__()
        self.segmenter = segmenter

    @property
    def title(self) -> str:
        """The name of the segmenter."""
        return str(self.segmenter.title)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> int64 (B, H, W)."""
        logits: Tensor = self.segmenter(images)
        return logits.argmax(1)


class CellPool(nn.Module):
    """`nn.AdaptiveAvgPool2d`, in a form that can also be exported for a map of any size.

    Args:
        height: height of the result.
        width: width of the result.
    """

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, height, width)."""
        return pool_to(x.permute(0, 2, 3, 1), self.height, self.width).permute(0, 3, 1, 2)


@dataclass(frozen=True)
class Segment(Task):
    """`logits` (B, classes, H, W) of normalised images (B, C, H, W).

    Attributes:
        resize: how an image is brought to the input size, as in `attnzoo.tools.segmentation.data`.
    """

    resize: str

    @property
    def outputs(self) -> tuple[str, ...]:
        """The name `logits`."""
        return ("logits",)

    def notes(self) -> dict[str, str]:
        """Metadata on the resizing of images."""
        return {"resize": self.resize}


@dataclass(frozen=True)
class SegmentMask(Segment):
    """`mask` (B, H, W), the class of each pixel."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The name `mask`."""
        return ("mask",)

    def expected(self, images: Tensor) -> dict[str, Tensor]:
        """The classes of images (B, C, H, W), and `logits` to measure the difference with."""
        network: Any = self.network
        return {**super().expected(images), "logits": run_network(network.segmenter, images)[0]}

    def difference(self, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
        """By how much the logit of a class that the file chose is below the largest one, relative to all logits.

        Of two classes with nearly the same logit, rounding decides which is chosen.
        """
        mask, logits = given["mask"], expected["logits"]
        if mask.shape != expected["mask"].shape or not (mask.min() >= 0 and mask.max() < logits.shape[1]):
            return float("inf")
        return relative_difference(logits.gather(1, mask[:, None].long()), logits.amax(1, keepdim=True))


def segment(model: Segmenter, input_size: tuple[int, int, int], argmax: bool) -> Task:
    """Makes the task of a segmenter.

    Args:
        model: in evaluation mode.
        input_size: channels, height and width of an image.
        argmax: return the class of each pixel instead of logits.
    """
    model = copy.deepcopy(model)
    for name, module in list(model.named_modules()):
        # the pyramid of UPerNet, whose file torch writes wrongly for other sizes than that of the trace
        size: Any = getattr(module, "output_size", None)
        if isinstance(module, nn.AdaptiveAvgPool2d) and size not in (1, (1, 1)):
            sides = size if isinstance(size, tuple) else (size, size)
            model.set_submodule(name, CellPool(*sides).eval())
    resize = model.pretrained_cfg["resize"]
    return SegmentMask(ClassOfPixel(model).eval(), input_size, resize) if argmax else Segment(model, input_size, resize)


def open_with_origin(directory: str | Path, **_: Any) -> tuple[Segmenter, dict[str, str]]:
    """Opens the segmenter of a directory; returns it with the metadata entries on its origin.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: the directory was not written by `attnzoo train` for segmentation, or is damaged.
    """
    segmenter, config = open_segmenter(directory)
    return segmenter, {
        "head": config["decoder"]["name"],
        "labels": json.dumps(config["label_names"]),
        "weights": f"sha256:{sha256(Path(model_directory(str(directory))) / WEIGHTS)}",
    }
