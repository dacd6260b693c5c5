"""Operators of detectors that cannot be traced from torchvision: suppression, and the pooling of regions.

torchvision returns a variable number of boxes, which cannot be traced with a dynamic batch. These operators return a
value for every input box. In eager they call torchvision; in a file they are standard nodes.

Shapes: G independent groups, N boxes, C classes or channels, R regions, S side of a pooled map.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align


@torch.library.custom_op("attnzoo::suppress", mutates_args=())
def suppress(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    """Non-maximum suppression, separately for each class.

    Args:
        boxes: (G, N, 4), x1 y1 x2 y2.
        scores: (G, C, N); a box takes part in the classes where its score is above 0.
        overlap: largest intersection over union of two boxes that are both kept.

    Returns:
        Booleans (G, N), whether a box is kept in any class.
    """
    left = torch.zeros_like(boxes[..., 0], dtype=torch.bool)
    for group, rows in enumerate(scores):
        for row in rows:
            here = torch.where(row > 0)[0]
            left[group, here[nms(boxes[group, here], row[here], overlap)]] = True
    return left


@suppress.register_fake
def _(boxes: Tensor, scores: Tensor, overlap: float) -> Tensor:
    return torch.empty_like(boxes[..., 0], dtype=torch.bool)


@torch.library.custom_op("attnzoo::pool_regions", mutates_args=())
def pool_regions(
    features: list[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    scales: list[float],
    side: int,
    sampling_ratio: int,
) -> Tensor:
    """Pools regions of feature maps, each from its own level, to one size.

    Args:
        features: maps (B, C, H, W) of the levels.
        boxes: (R, 4), x1 y1 x2 y2 in pixels of the image.
        images: (R), index of the region's image in the batch.
        levels: (R), index of the region's level; -1 for none, which gives zeros.
        scales: size of each level divided by the size of the image.
        side: height and width of a pooled map.
        sampling_ratio: samples per pooled pixel, along a side.

    Returns:
        (R, C, side, side).
    """
    pooled = boxes.new_zeros(len(boxes), features[0].shape[1], side, side)
    regions = torch.cat([images[:, None].to(boxes), boxes], 1)  # (R, 5)
    for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
        here = torch.where(levels == level)[0]
        pooled[here] = roi_align(feature, regions[here], side, scale, sampling_ratio)
    return pooled


@pool_regions.register_fake
def _(
    features: list[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    scales: list[float],
    side: int,
    sampling_ratio: int,
) -> Tensor:
    return boxes.new_empty(boxes.shape[0], features[0].shape[1], side, side)


def translations() -> dict[Any, Callable[..., Any]]:
    """ONNX translations of the operators, by operator."""
    from onnxscript import opset18 as op

    def write_suppress(boxes: Any, scores: Any, overlap: float) -> Any:
        count = op.Shape(boxes, start=1, end=2)
        # (left, 3): group, class, box
        left = op.NonMaxSuppression(boxes, scores, count, _float_below(overlap), 0.0)
        places = op.Gather(left, [0, 2], axis=1)
        marks = op.Expand(1.0, op.Shape(left, start=0, end=1))
        none = op.Expand(0.0, op.Shape(boxes, start=0, end=2))
        return op.Cast(op.ScatterND(none, places, marks), to=9)

    def write_pool_regions(
        features: Any, boxes: Any, images: Any, levels: Any, scales: Any, side: int, sampling_ratio: int
    ) -> Any:
        channels = op.Shape(features[0], start=1, end=2)
        pooled = op.Expand(0.0, op.Concat(op.Shape(levels), channels, op.Constant(value_ints=[side, side]), axis=0))
        for level, (feature, scale) in enumerate(zip(features, scales, strict=True)):
            here = op.Squeeze(op.NonZero(op.Equal(levels, level)), [0])
            maps = op.RoiAlign(
                feature,
                op.Gather(boxes, here),
                op.Gather(images, here),
                # torchvision's `aligned=False`
                coordinate_transformation_mode="output_half_pixel",
                output_height=side,
                output_width=side,
                sampling_ratio=sampling_ratio,
                spatial_scale=scale,
            )
            pooled = op.ScatterND(pooled, op.Unsqueeze(here, [1]), maps)
        return pooled

    return {
        torch.ops.attnzoo.suppress.default: write_suppress,
        torch.ops.attnzoo.pool_regions.default: write_pool_regions,
    }


def _float_below(value: float) -> float:
    """The largest float32 that is not larger than `value`: ONNX compares in float32, torchvision in float64."""
    nearest = torch.tensor(value, dtype=torch.float32)
    if nearest.item() <= value:
        return nearest.item()
    return torch.nextafter(nearest, torch.tensor(-math.inf)).item()
