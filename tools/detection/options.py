"""The options in `detector` of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attnzoo_command.keys import unknown_key

HEADS = ("fcos", "retinanet", "faster_rcnn", "mask_rcnn")
RESIZES = ("letterbox", "stretch")

_INTEGERS = {"max_size": 1, "width": 64, "finer_levels": 0, "coarser_levels": 0, "detections_per_image": 1}
_RANGES = {"anchor_scale": (0.1, 64.0), "score_threshold": (0.0, 1.0), "nms_threshold": (0.0, 1.0)}
_SWITCHES = ("frozen_batchnorm", "normalize_features")


@dataclass(frozen=True)
class DetectorOptions:
    """The options in `detector` of a recipe.

    Args:
        head: one of HEADS.
        size: side of the square of pixels that each image is resized to, a multiple of 32 and of the backbone's
            coarsest stride; images then have one size in training, evaluation, prediction and exported files. None for
            `min_size` and `max_size`.
        resize: how an image is resized to `size`: "letterbox" keeps the aspect ratio and pads with the mean color at
            the right and at the bottom, "stretch" changes the aspect ratio. Without `size` it is "letterbox".
        min_size: without `size`, the shorter side of an image is resized to this many pixels. If it is a list, training
            draws one size for each image, and evaluation uses the last. It overrides the size after an augmentation
            that resizes.
        max_size: largest longer side in pixels; takes precedence over `min_size`.
        width: channels of the pyramid and the head, a multiple of 32 and at least 64.
        finer_levels: number of pyramid levels finer than the backbone's finest.
        coarser_levels: number of pyramid levels coarser than the backbone's coarsest; the default is as published, 2
            for fcos and retinanet and 1 for the others.
        anchor_scale: side of an anchor in strides of its level; the default is as published: 1 for fcos (which
            predicts from points), 4 for retinanet (and two more sizes in the octave), 8 for the others.
        score_threshold: detections with a lower score are left out, 0 .. 1.
        nms_threshold: if two boxes of a class overlap by more (intersection over union), the one with the lower score
            is removed; the default is as in torchvision, 0.6 for fcos and 0.5 for the others.
        detections_per_image: largest number of detections; the COCO metric uses 100.
        frozen_batchnorm: keep the backbone's batch normalisation in evaluation mode and do not train it. The default is
            True for pretrained weights, because a batch has too few images for statistics.
        normalize_features: apply a LayerNorm over the channels of each of the backbone's features.
    """

    head: str
    size: int | None = None
    resize: str = "letterbox"
    min_size: int | Sequence[int] = 800
    max_size: int = 1333
    width: int = 256
    finer_levels: int = 0
    coarser_levels: int | None = None
    anchor_scale: float | None = None
    score_threshold: float = 0.05
    nms_threshold: float | None = None
    detections_per_image: int = 100
    frozen_batchnorm: bool | None = None
    normalize_features: bool = False

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DetectorOptions:
        """Reads and validates options.

        Raises:
            ValueError: an unknown or missing key, or an invalid value; the message names it and what is allowed.
        """
        allowed = [entry.name for entry in dataclasses.fields(cls)]
        if unknown := [key for key in values if key not in allowed]:
            raise ValueError(unknown_key(f"detector.{unknown[0]}", values[unknown[0]], allowed, "detection"))
        if values.get("head") not in HEADS:
            raise ValueError(f"detector.head must be one of {', '.join(HEADS)}, got {values.get('head')!r}")
        options = cls(**values)
        options._check()
        return options

    def _check(self) -> None:
        for key, least in _INTEGERS.items():
            value = getattr(self, key)
            if value is None and key == "coarser_levels":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"detector.{key} must be an integer of at least {least}, got {value!r}")
        if self.width % 32:
            raise ValueError(f"detector.width must be a multiple of 32 (for GroupNorm), got {self.width}")
        for key, (lowest, largest) in _RANGES.items():
            value, is_left_out = getattr(self, key), getattr(self, key) is None and key != "score_threshold"
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not is_left_out and not (is_number and lowest <= value <= largest):
                raise ValueError(f"detector.{key} must be a number in {lowest:g} .. {largest:g}, got {value!r}")
        for key in _SWITCHES:
            value = getattr(self, key)
            if not isinstance(value, bool) and not (value is None and key == "frozen_batchnorm"):
                raise ValueError(f"detector.{key} must be True or False, got {value!r}")
        self._check_square()
        sizes = self.min_size if isinstance(self.min_size, (list, tuple)) else [self.min_size]
        if not sizes or not all(isinstance(x, int) and not isinstance(x, bool) and x >= 16 for x in sizes):
            raise ValueError(
                f"detector.min_size must be an integer of at least 16, or a list of them, got {self.min_size!r}"
            )

    def _check_square(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"detector.resize must be one of {', '.join(RESIZES)}, got {self.resize!r}")
        if self.size is None and self.resize == "stretch":
            raise ValueError('detector.resize="stretch" needs detector.size, the side of the square')
        if self.size is None:
            return
        if type(self.size) is not int or self.size < 32 or self.size % 32:
            raise ValueError(f"detector.size must be a multiple of 32, or None, got {self.size!r}")
        if (self.min_size, self.max_size) != (DetectorOptions.min_size, DetectorOptions.max_size):
            raise ValueError(
                "detector.size takes the place of min_size and max_size: set detector.size=None, or omit them"
            )

    def describe_resizing(self) -> str:
        """Describes how images are resized, for summaries."""
        if self.size is not None:
            how = "aspect ratio kept, padded" if self.resize == "letterbox" else "aspect ratio changed"
            return f"{self.size} x {self.size}, {self.resize} ({how})"
        sizes = self.min_size if isinstance(self.min_size, (list, tuple)) else [self.min_size]
        shorter = str(sizes[0]) if len(sizes) == 1 else f"{min(sizes)} to {max(sizes)} ({sizes[-1]} in evaluation)"
        return f"shorter side {shorter}, longer side at most {self.max_size}, letterbox (aspect ratio kept, padded)"
