"""Boxes on their way to being detections, by torchvision's rules, in tensors of fixed size.

A candidate that has dropped out keeps its place with a score of 0.

Shapes: B batch, N candidates, C classes, K detections per image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Of at most so many candidates torchvision keeps the classes apart by moving them away from each other (`batched_nms`).
# Coordinates far from the origin are coarser, so that whether two boxes overlap too much can depend on it.
_MOVED = 1000


def at(values: Tensor, places: Tensor) -> Tensor:
    """values (B, N, ...) at places (B, K) -> (B, K, ...)."""
    index = places.reshape(*places.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(*places.shape, *values.shape[2:]))


def apart(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Boxes (B, N, 4) as torchvision compares them: moved by their label (B, N) where an image has few of them."""
    taking_part = scores > 0
    reach = torch.where(taking_part[..., None], boxes, 0.0).amax((1, 2))[:, None] + 1  # (B, 1)
    is_moved = taking_part.sum(1, keepdim=True) <= _MOVED
    return boxes + torch.where(is_moved, labels.to(boxes) * reach, 0.0)[..., None]


def by_label(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Scores (B, N) -> (B, count, N), each in the row of its label and 0 in the others."""
    rows = torch.arange(count)[:, None]
    return torch.where(labels[:, None] == rows, scores[:, None], 0.0)


def best(count: int, scores: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The candidates of the highest scores, best first.

    Args:
        count: how many, K; zeros are added where there are fewer.
        scores: (B, N).
        others: (B, N, ...).

    Returns:
        The scores and the others, (B, K, ...).
    """
    taken = min(count, scores.shape[1])
    scores, places = scores.topk(taken)
    chosen = [scores, *(at(values, places) for values in others)]
    filled = []
    for values in chosen:
        is_found = (scores > 0).reshape(*scores.shape, *[1] * (values.dim() - 2))
        values = torch.where(is_found, values, torch.zeros((), dtype=values.dtype))
        filled.append(F.pad(values, (*[0] * (2 * values.dim() - 3), count - taken)) if taken < count else values)
    return tuple(filled)
