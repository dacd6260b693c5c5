"""torchvision's detectors on any timm backbone, created from plain options and stored as data without code.

Outside of this file labels start at 0, and images are tensors (C, H, W) in the range 0 .. 1 in their original size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torchvision.models.detection import FCOS, FasterRCNN, MaskRCNN, RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from ..stages import OnStages
from .backbone import PyramidBackbone, level_names
from .options import DetectorOptions

# published defaults per head: coarser levels, and the side of an anchor in strides
_COARSER = {"fcos": 2, "retinanet": 2, "faster_rcnn": 1, "mask_rcnn": 1}
_ANCHOR_SCALE = {"fcos": 1.0, "retinanet": 4.0, "faster_rcnn": 8.0, "mask_rcnn": 8.0}
# class 0 of R-CNN heads is the background
_FIRST_LABEL = {"fcos": 0, "retinanet": 0, "faster_rcnn": 1, "mask_rcnn": 1}


class Detector(OnStages, nn.Module):
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
    common = {**_resizing(options, backbone.body_strides[-1]), "image_mean": list(mean), "image_std": list(std)}
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


def _resizing(options: DetectorOptions, stride: int) -> dict[str, Any]:
    """The options of torchvision's transform that resizes images."""
    # so that every level of the backbone has its exact stride
    multiple = max(32, stride)
    if options.size is None:
        return {"min_size": options.min_size, "max_size": options.max_size, "size_divisible": multiple}
    if options.size % multiple:
        raise ValueError(f"detector.size must be a multiple of {multiple} for this backbone, got {options.size}")
    # padded to a multiple of its longest side, an image is a square
    square: dict[str, Any] = {"min_size": options.size, "max_size": options.size, "size_divisible": options.size}
    return {**square, "fixed_size": (options.size, options.size)} if options.resize == "stretch" else square


def _anchors(options: DetectorOptions, strides: Sequence[int]) -> AnchorGenerator:
    scale = _ANCHOR_SCALE[options.head] if options.anchor_scale is None else options.anchor_scale
    steps = (0, 1, 2) if options.head == "retinanet" else (0,)
    sizes = tuple(tuple(stride * scale * 2 ** (step / 3) for step in steps) for stride in strides)
    ratios = (1.0,) if options.head == "fcos" else (0.5, 1.0, 2.0)
    return AnchorGenerator(sizes, (ratios,) * len(sizes))
