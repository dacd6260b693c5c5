"""torchvision's detectors on any timm backbone, created from plain options and stored as data without code.

Outside of this file labels start at 0, and images are tensors (C, H, W) in the range 0 .. 1 in their original size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from timm.models import group_parameters
from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from .backbone import PyramidBackbone, level_names

HEADS = ("fcos", "retinanet", "faster_rcnn", "mask_rcnn")

# published defaults per head: coarser levels, and the side of an anchor in strides
_COARSER = {"fcos": 2, "retinanet": 2, "faster_rcnn": 1, "mask_rcnn": 1}
_ANCHOR_SCALE = {"fcos": 1.0, "retinanet": 4.0, "faster_rcnn": 8.0, "mask_rcnn": 8.0}
# class 0 of R-CNN heads is the background
_FIRST_LABEL = {"fcos": 0, "retinanet": 0, "faster_rcnn": 1, "mask_rcnn": 1}

_INTEGERS = {"max_size": 1, "width": 64, "finer_levels": 0, "coarser_levels": 0, "detections_per_image": 1}
_RANGES = {"anchor_scale": (0.1, 64.0), "score_threshold": (0.0, 1.0), "nms_threshold": (0.0, 1.0)}
_SWITCHES = ("frozen_batchnorm", "normalize_features")


@dataclass(frozen=True)
class DetectorOptions:
    """The options in `detector` of a recipe.

    Args:
        head: one of HEADS.
        min_size: the shorter side of an image is resized to this many pixels. If it is a list, training draws one size
            for each image, and evaluation uses the last. It overrides the size after an augmentation that resizes.
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
            raise ValueError(f"detector: unknown key {unknown[0]!r}: use {', '.join(allowed)}")
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
        sizes = self.min_size if isinstance(self.min_size, (list, tuple)) else [self.min_size]
        if not sizes or not all(isinstance(x, int) and not isinstance(x, bool) and x >= 16 for x in sizes):
            raise ValueError(
                f"detector.min_size must be an integer of at least 16, or a list of them, got {self.min_size!r}"
            )


class Detector(nn.Module):
    """A detector whose labels start at 0.

    Args:
        model: torchvision detector on a PyramidBackbone.
        first_label: first label of the torchvision detector.
        frozen_batchnorm: keep the backbone's batch normalisation in evaluation mode.
    """

    # the task of its exported file
    export_task = "detect"

    def __init__(self, model: nn.Module, first_label: int, frozen_batchnorm: bool) -> None:
        super().__init__()
        self.model, self.first_label, self.frozen_batchnorm = model, first_label, frozen_batchnorm
        self.frozen_backbone = False
        if frozen_batchnorm:
            for module in self.backbone.batch_norms():
                module.requires_grad_(False)

    @property
    def backbone(self) -> PyramidBackbone:
        """The timm model with its pyramid."""
        backbone: Any = self.model.backbone
        return backbone

    def freeze_backbone(self) -> None:
        """Freezes the backbone in evaluation mode, so that only the pyramid and the head are trained."""
        self.frozen_backbone = True
        self.backbone.body.requires_grad_(False)

    def train(self, mode: bool = True) -> Detector:
        """Sets the training mode; frozen parts stay in evaluation mode."""
        super().train(mode)
        if mode and self.frozen_backbone:
            self.backbone.body.eval()
        if mode and self.frozen_batchnorm:
            for module in self.backbone.batch_norms():
                module.eval()
        return self

    def forward(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]] | None = None) -> Any:
        """Losses by name in training mode, detections otherwise.

        Args:
            images: tensors (C, H, W) in 0 .. 1, of any sizes.
            targets: for training, for each image `boxes` (N, 4), x1 y1 x2 y2 in its pixels, `labels` (N) from 0, and
                for mask_rcnn `masks` (N, H, W).

        Returns:
            In training mode scalars named `loss_...`. In evaluation mode for each image `boxes` (N, 4), `labels` (N)
            from 0, `scores` (N), best first, and for mask_rcnn boolean `masks` (N, H, W).
        """
        if self.training:
            assert targets is not None, "a detector in training mode needs targets"
            known = [{**target, "labels": target["labels"] + self.first_label} for target in targets]
            losses = self.model(list(images), known)
            return {f"loss_{name.removeprefix('loss_')}": loss for name, loss in losses.items()}
        return [self._finish(found) for found in self.model(list(images))]

    def _finish(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        finished = {**found, "labels": found["labels"] - self.first_label}
        if "masks" in found:
            finished["masks"] = found["masks"][:, 0] >= 0.5  # (N, 1, H, W) -> (N, H, W)
        return finished

    def compile(self, *arguments: Any, **options: Any) -> None:
        """Compiles the backbone only: the rest depends on the objects found in each image."""
        self.backbone.compile(*arguments, **options)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the backbone's activations in the backward pass.

        Raises:
            ValueError: the backbone does not support it.
        """
        inner, _ = self._timm_model()
        if not hasattr(inner, "set_grad_checkpointing"):
            raise ValueError("this backbone does not support grad_checkpointing: remove it")
        inner.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Parameters of the backbone that must not have weight decay."""
        inner, prefix = self._timm_model()
        names = inner.no_weight_decay() if hasattr(inner, "no_weight_decay") else set()
        return {f"{prefix}{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> Any:
        """The layer of each parameter, for layer-wise learning rates; pyramid and head follow as the last layer.

        Raises:
            ValueError: the backbone does not define its layers.
        """
        inner, prefix = self._timm_model()
        if not hasattr(inner, "group_matcher"):
            raise ValueError("layer_decay: this backbone does not define its layers (group_matcher): remove it")
        layers = group_parameters(inner, inner.group_matcher(coarse=coarse), reverse=True)
        last = max(layers.values()) + 1

        def layer(name: str) -> int:
            return layers.get(name.removeprefix(prefix), last) if name.startswith(prefix) else last

        return layer

    def _timm_model(self) -> tuple[Any, str]:
        """The inner timm model, and the prefix of its parameter names."""
        body, prefix = self.backbone.body, "model.backbone.body."
        return (body.model, f"{prefix}model.") if hasattr(body, "model") else (body, prefix)


def create_detector(
    architecture: str,
    arguments: Mapping[str, Any],
    options: DetectorOptions,
    num_classes: int,
    mean: Sequence[float],
    std: Sequence[float],
) -> Detector:
    """Creates a detector on a timm backbone.

    Args:
        architecture: name of a timm model.
        arguments: arguments of `timm.create_model`.
        options: options of the head and the pyramid.
        num_classes: number of classes without background.
        mean: mean of each channel.
        std: standard deviation of each channel.

    Raises:
        ValueError: the backbone does not fit.
    """
    head = options.head
    coarser = _COARSER[head] if options.coarser_levels is None else options.coarser_levels
    first_label = _FIRST_LABEL[head]
    backbone = PyramidBackbone(
        architecture,
        arguments,
        options.width,
        options.finer_levels,
        coarser,
        pooled=first_label == 1,
        normalized=options.normalize_features,
    )
    common = {
        "min_size": options.min_size,
        "max_size": options.max_size,
        "image_mean": list(mean),
        "image_std": list(std),
        # so that every level of the backbone has its exact stride
        "size_divisible": max(32, backbone.body_strides[-1]),
    }
    frozen = bool(arguments.get("pretrained")) if options.frozen_batchnorm is None else options.frozen_batchnorm
    anchors = _anchors(options, backbone.strides)
    nms_threshold = options.nms_threshold
    if first_label == 0:
        model = {"fcos": FCOS, "retinanet": RetinaNet}[head](
            backbone,
            num_classes,
            anchor_generator=anchors,
            score_thresh=options.score_threshold,
            nms_thresh=(0.6 if head == "fcos" else 0.5) if nms_threshold is None else nms_threshold,
            detections_per_img=options.detections_per_image,
            **common,
        )
        return Detector(model, first_label, frozen)
    names = level_names(backbone, coarser)
    if head == "mask_rcnn":
        common["mask_roi_pool"] = MultiScaleRoIAlign(names, output_size=14, sampling_ratio=2)
    model = {"faster_rcnn": FasterRCNN, "mask_rcnn": MaskRCNN}[head](
        backbone,
        num_classes + 1,
        rpn_anchor_generator=anchors,
        box_roi_pool=MultiScaleRoIAlign(names, output_size=7, sampling_ratio=2),
        box_score_thresh=options.score_threshold,
        box_nms_thresh=0.5 if nms_threshold is None else nms_threshold,
        box_detections_per_img=options.detections_per_image,
        **common,
    )
    return Detector(model, first_label, frozen)


def _anchors(options: DetectorOptions, strides: Sequence[int]) -> AnchorGenerator:
    scale = _ANCHOR_SCALE[options.head] if options.anchor_scale is None else options.anchor_scale
    steps = (0, 1, 2) if options.head == "retinanet" else (0,)
    sizes = tuple(tuple(stride * scale * 2 ** (step / 3) for step in steps) for stride in strides)
    ratios = (1.0,) if options.head == "fcos" else (0.5, 1.0, 2.0)
    return AnchorGenerator(sizes, (ratios,) * len(sizes))
