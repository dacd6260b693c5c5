"""Candidate boxes, selected by torchvision's rules, in tensors of fixed size.

A candidate that has been removed stays in the tensors with a score of 0.

Shapes: B batch, N candidates, C classes, K detections per image.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# For at most this many candidates, torchvision separates the classes by an offset per class (`batched_nms`).
# Large coordinates are less precise, so that whether two boxes overlap too much can depend on the offset.
_MOVED = 1000


def at(values: Tensor, places: Tensor) -> Tensor:
    """Gathers values (B, N, ...) at indices (B, K) -> (B, K, ...)."""
    index = places.reshape(*places.shape, *[1] * (values.dim() - 2))
    return values.gather(1, index.expand(*places.shape, *values.shape[2:]))


def apart(boxes: Tensor, scores: Tensor, labels: Tensor) -> Tensor:
    """Boxes (B, N, 4) as torchvision compares them: offset by their label (B, N) if an image has few candidates."""
    taking_part = scores > 0
    reach = torch.where(taking_part[..., None], boxes, 0.0).amax((1, 2))[:, None] + 1  # (B, 1)
    is_moved = taking_part.sum(1, keepdim=True) <= _MOVED
    return boxes + torch.where(is_moved, labels.to(boxes) * reach, 0.0)[..., None]


def by_label(scores: Tensor, labels: Tensor, count: int) -> Tensor:
    """Scores (B, N) -> (B, count, N), each in the row of its label, and 0 in the others."""
    rows = torch.arange(count)[:, None]
    return torch.where(labels[:, None] == rows, scores[:, None], 0.0)


def best(count: int, scores: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """The candidates with the highest scores, best first.

    Args:
        count: number of candidates K; zeros are added if there are fewer.
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
