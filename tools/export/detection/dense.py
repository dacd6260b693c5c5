"""torchvision's detectors as traceable modules: the same modules and rules, with outputs of fixed size.

`regions.py` has the two-stage detectors.

Shapes: B batch, D channels of an image, H W its height and width, A anchors, N candidates, C classes, K detections.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops.boxes import clip_boxes_to_image

from ...detection.detectors import Detector
from .candidates import apart, at, best, by_label
from .operators import suppress


class TracedDetector(nn.Module):
    """A detector for images of one size, with the outputs that `Detect` describes.

    Args:
        detector: in evaluation mode; it becomes a submodule.
        size: height and width of an image.

    Attributes:
        sides: height and width of an image after resizing, before padding.
    """

    anchors: Tensor
    mean: Tensor
    std: Tensor
    to_original: Tensor

    def __init__(self, detector: Detector, size: tuple[int, int]) -> None:
        super().__init__()
        self.detector, self.size = detector, size
        transform: Any = detector.model.transform
        generator = self._anchor_generator()
        blank = torch.zeros(len(transform.image_mean), *size)
        # constants that depend on the image size only, computed by torchvision
        with torch.no_grad():
            framed, _ = transform([blank])
            features = list(detector.backbone(framed.tensors).values())
            anchors = generator(framed, features)[0]
            # the poolers store the scales of the levels when they run
            detector([blank])
        self.sides: tuple[int, int] = tuple(framed.image_sizes[0])
        self.padded_sides: tuple[int, int] = tuple(framed.tensors.shape[2:])
        places = [x.shape[2] * x.shape[3] for x in features]
        self.anchor_counts = [a * b for a, b in zip(places, generator.num_anchors_per_location(), strict=True)]
        self.register_buffer("anchors", anchors, persistent=False)  # (A, 4)
        self.register_buffer("mean", torch.tensor(transform.image_mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(transform.image_std)[:, None, None], persistent=False)
        y, x = torch.tensor(size, dtype=torch.float32) / torch.tensor(self.sides, dtype=torch.float32)
        self.register_buffer("to_original", torch.stack([x, y, x, y]), persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, D, H, W) of 0 .. 1 -> boxes (B, K, 4), scores (B, K), labels (B, K), and for Mask R-CNN masks."""
        raise NotImplementedError

    def _anchor_generator(self) -> Any:
        return self.detector.model.anchor_generator

    def levels(self, images: Tensor) -> dict[str, Tensor]:
        """The feature pyramid of images, which are normalised, resized and padded as in torchvision."""
        x = (images - self.mean) / self.std
        if self.sides != self.size:
            x = F.interpolate(x, self.sides, mode="bilinear", align_corners=False)
        (height, width), (padded_height, padded_width) = self.sides, self.padded_sides
        if self.padded_sides != self.sides:
            x = F.pad(x, (0, padded_width - width, 0, padded_height - height))
        levels: dict[str, Tensor] = self.detector.backbone(x)
        return levels

    def inside(self, boxes: Tensor) -> Tensor:
        """Boxes (..., 4) clipped to the image."""
        clipped: Tensor = clip_boxes_to_image(boxes, self.sides)
        return clipped


class TracedDenseDetector(TracedDetector):
    """FCOS and RetinaNet, which predict a box and the scores of all classes at every anchor."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, D, H, W) of 0 .. 1 -> boxes (B, K, 4), scores (B, K), labels (B, K)."""
        model: Any = self.detector.model
        answers = model.head(list(self.levels(images).values()))
        scores = answers["cls_logits"].sigmoid()  # (B, A, C)
        classes = scores.shape[2]
        if "bbox_ctrness" in answers:
            scores = (scores * answers["bbox_ctrness"].sigmoid()).sqrt()
        levels = [x.split(self.anchor_counts, 1) for x in (scores, answers["bbox_regression"], self.anchors[None])]
        candidates = [self._candidates(*level) for level in zip(*levels, strict=True)]
        scores, boxes, labels = (torch.cat(parts, 1) for parts in zip(*candidates, strict=True))
        left = suppress(apart(boxes, scores, labels), by_label(scores, labels, classes), model.nms_thresh)
        scores, boxes, labels = best(model.detections_per_img, torch.where(left, scores, 0.0), boxes, labels)
        return boxes * self.to_original, scores, torch.where(scores > 0, labels, -1)

    def _candidates(self, scores: Tensor, codes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best candidates of a level.

        Args:
            scores: (B, A, C).
            codes: encoded boxes of the head, (B, A, 4).
            anchors: (1, A, 4).

        Returns:
            Scores (B, N), boxes (B, N, 4), labels (B, N).
        """
        model: Any = self.detector.model
        classes = scores.shape[2]
        scores = scores.flatten(1)  # (B, A, C) -> (B, A C)
        scores = torch.where(scores > model.score_thresh, scores, 0.0)
        scores, chosen = scores.topk(min(model.topk_candidates, scores.shape[1]))
        places = torch.div(chosen, classes, rounding_mode="floor")
        # (B, N, 4) -> (B N, 4)
        codes, around = at(codes, places).flatten(0, 1), anchors[0, places].flatten(0, 1)
        # `decode` of torchvision's box coder takes a list of anchors, this method a tensor
        decode = getattr(model.box_coder, "decode_single", model.box_coder.decode)
        boxes = decode(codes, around).reshape(-1, scores.shape[1], 4)
        return scores, self.inside(boxes), chosen % classes
