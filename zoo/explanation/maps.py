"""What explanations share: the mode of a network, and the size and the range of maps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class UnknownLayoutError(ValueError):
    """The tokens of a layer do not form a map of the images in a way that is known."""


@contextlib.contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Puts a network in evaluation mode inside the context, and each of its modules back in its own mode after it."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def proportional(tokens: int, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the (rows, columns) of a map of so many tokens with the proportions of images.

    Raises:
        UnknownLayoutError: there is no such map.
    """
    rows = max(1, round((tokens * size[0] / size[1]) ** 0.5))
    if tokens < 1 or tokens % rows:
        raise UnknownLayoutError(f"{tokens} tokens form no map with the proportions of {size[0]} x {size[1]} pixels")
    return rows, tokens // rows


def weighted_map(features: Tensor, gradient: Tensor) -> Tensor:
    """Sums the channels of maps (B, C, H, W), weighted by the means of their gradients: (B, H, W), at least 0."""
    return (features * gradient.mean((2, 3), keepdim=True)).sum(1).relu()


def scaled(maps: Tensor) -> Tensor:
    """Divides maps (.., H, W) by the largest absolute value of each; a map of zeros stays zero."""
    return maps / maps.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
