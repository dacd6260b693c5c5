"""Faster R-CNN and Mask R-CNN as traceable modules: proposals, and the heads on their regions.

Shapes: B batch, D channels, A anchors, P proposals, C classes without the background, K detections, S side of a map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .candidates import apart, at, best, by_label
from .dense import TracedDetector
from .operators import pool_regions, suppress

# torchvision removes detections with a smaller side, in pixels
_SMALLEST_SIDE = 1e-2


class TracedRegionDetector(TracedDetector):
    """Faster R-CNN and Mask R-CNN."""

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, D, H, W) of 0 .. 1 -> boxes (B, K, 4), scores (B, K), labels (B, K), masks (B, K, S, S)."""
        heads: Any = self.detector.model.roi_heads
        levels = self.levels(images)
        scores, boxes, labels = self._detections(levels, *self._proposals(list(levels.values())))
        answer = boxes * self.to_original, scores, torch.where(scores > 0, labels, 0) - 1
        if not heads.has_mask():
            return answer
        maps = self._pooled(heads.mask_roi_pool, levels, boxes, scores)
        masks = heads.mask_predictor(heads.mask_head(maps)).sigmoid()  # (B K, C + 1, S, S)
        masks = masks.unflatten(0, scores.shape)
        masks = masks.gather(2, labels[..., None, None, None].expand(-1, -1, 1, *masks.shape[3:]))[:, :, 0]
        return *answer, torch.where(scores[..., None, None] > 0, masks, 0.0)

    def _anchor_generator(self) -> Any:
        network: Any = self.detector.model.rpn
        return network.anchor_generator

    def _proposals(self, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Scores (B, P) and boxes (B, P, 4) of the proposals."""
        network: Any = self.detector.model.rpn
        candidates, labels = [], []
        anchors = self.anchors.split(self.anchor_counts)
        for level, (objectness, codes) in enumerate(zip(*network.head(features), strict=True)):
            objectness = objectness.permute(0, 2, 3, 1).flatten(1)  # (B, a, H, W) -> (B, A)
            # (B, 4 a, H, W) -> (B, a, 4, H, W) -> (B, H, W, a, 4) -> (B, A, 4)
            codes = codes.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            objectness, places = objectness.topk(min(network.pre_nms_top_n(), objectness.shape[1]))
            around = anchors[level][places].flatten(0, 1)
            boxes = network.box_coder.decode_single(at(codes, places).flatten(0, 1), around)
            boxes = self.inside(boxes.reshape(-1, objectness.shape[1], 4))
            scores = objectness.sigmoid()
            is_kept = is_large(boxes, network.min_size) & (scores >= network.score_thresh)
            candidates.append((torch.where(is_kept, scores, 0.0), boxes))
            labels.append(torch.full_like(places, level))
        scores, boxes = (torch.cat(parts, 1) for parts in zip(*candidates, strict=True))
        label = torch.cat(labels, 1)
        left = suppress(apart(boxes, scores, label), by_label(scores, label, len(features)), network.nms_thresh)
        scores, boxes = best(min(network.post_nms_top_n(), scores.shape[1]), torch.where(left, scores, 0.0), boxes)
        return scores, boxes

    def _detections(self, levels: dict[str, Tensor], found: Tensor, proposals: Tensor) -> tuple[Tensor, ...]:
        """Scores (B, K), boxes (B, K, 4) and labels (B, K), from 1, for proposals (B, P, 4) with scores (B, P)."""
        heads: Any = self.detector.model.roi_heads
        maps = heads.box_head(self._pooled(heads.box_roi_pool, levels, proposals, found))
        logits, codes = heads.box_predictor(maps)  # (B P, C + 1), (B P, 4 (C + 1))
        scores = logits.softmax(-1)[:, 1:].unflatten(0, found.shape)  # (B, P, C)
        boxes = heads.box_coder.decode_single(codes, proposals.flatten(0, 1))
        boxes = self.inside(boxes.unflatten(1, (-1, 4))[:, 1:]).unflatten(0, found.shape)  # (B, P, C, 4)
        is_kept = (scores > heads.score_thresh) & is_large(boxes, _SMALLEST_SIDE) & (found[..., None] > 0)
        count, classes = scores.shape[1:]
        scores = torch.where(is_kept, scores, 0.0).flatten(1)  # (B, P C)
        boxes, labels = boxes.flatten(1, 2), torch.arange(1, classes + 1).repeat(count).expand_as(scores)
        # every class has its own boxes and is a group: (B, P C, 4) -> (B C, P, 4)
        moved = apart(boxes, scores, labels).unflatten(1, (count, classes)).transpose(1, 2).flatten(0, 1)
        grouped = scores.unflatten(1, (count, classes)).transpose(1, 2).flatten(0, 1)  # (B C, P)
        left = suppress(moved, grouped[:, None], heads.nms_thresh)
        left = left.unflatten(0, (-1, classes)).transpose(1, 2).flatten(1)  # (B C, P) -> (B, P C)
        return best(heads.detections_per_img, torch.where(left, scores, 0.0), boxes, labels)

    def _pooled(self, pooler: Any, levels: dict[str, Tensor], boxes: Tensor, scores: Tensor) -> Tensor:
        """Pools boxes (B, P, 4) with scores (B, P) to maps (B P, D, S, S)."""
        flat = boxes.flatten(0, 1)
        images = torch.arange(boxes.shape[0])[:, None].expand_as(scores).flatten()
        level = torch.where(scores.flatten() > 0, pooler.map_levels([flat]), -1)
        features = [levels[name] for name in pooler.featmap_names]
        return pool_regions(features, flat, images, level, pooler.scales, pooler.output_size[0], pooler.sampling_ratio)


def is_large(boxes: Tensor, side: float) -> Tensor:
    """Whether both sides of boxes (..., 4) are at least `side`."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(-1)
