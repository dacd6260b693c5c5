"""Grad-CAM: where a prediction comes from, for any network with a map before its classifier."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .last_map import class_scores, last_map
from .maps import UnknownLayoutError, evaluating, proportional, weighted_map


def grad_cam(network: nn.Module, images: Tensor, target: int | None = None) -> Tensor:
    """Returns how much each position of the last map raises the score of a class.

    The map is the output of `forward_features`. In networks with a class token, it is the input of the last attention:
    after that only the class token counts. In networks whose features have another layout, such as several branches, it
    is the last output of a module that fits the images and that the score depends on.

    Args:
        network: a classifier with timm's interface.
        images: (B, in_chans, H, W).
        target: index of the class; None for the class with the highest score, of each image.

    Returns:
        (B, rows, columns), at least 0.

    Raises:
        ValueError: the network has no classifier, no such class, or no map.

    Source: Grad-CAM, arXiv 1610.02391, equations 1 and 2.
    """
    return cam_and_layer(network, images, target)[0]


def cam_and_layer(network: nn.Module, images: Tensor, target: int | None = None) -> tuple[Tensor, str]:
    """Returns Grad-CAM, see `grad_cam`, and the name of the layer of the map, `features` for `forward_features`."""
    classes: Any = getattr(network, "num_classes", 0)
    if classes < 1 or not hasattr(network, "forward_features"):
        raise ValueError("Grad-CAM needs a classifier with timm's interface, with at least one class")
    if target is not None and not (hasattr(target, "__index__") and 0 <= target < classes):
        raise ValueError(f"the class must be 0 .. {classes - 1}, got {target!r}")
    with evaluating(network), torch.enable_grad():
        known = _features_and_logits(network, images)
        if known is None:
            layer, features, gradient = last_map(network, images, target)
        else:
            layer, out, logits = known
            (of_out,) = torch.autograd.grad(class_scores(logits, target).sum(), out)
            features, gradient = _as_map(network, out.detach(), images), _as_map(network, of_out, images)
    return weighted_map(features, gradient), layer


def _features_and_logits(network: Any, images: Tensor) -> tuple[str, Tensor, Tensor] | None:
    """Returns the name of the layer of the last map, its output and the logits; None for an unknown layout."""
    if not getattr(network, "num_prefix_tokens", 0):
        with torch.no_grad():
            features = network.forward_features(images)
        if not isinstance(features, Tensor) or not _has_map(network, features, images):
            return None
        features = features.detach().requires_grad_()
        return "features", features, network.forward_head(features)
    blocks = network.stages[-1].blocks if hasattr(network, "stages") else getattr(network, "blocks", None)
    norm = getattr(blocks[-1], "norm1", None) if blocks is not None else None
    if norm is None:
        return None
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, out: Tensor) -> Tensor:
        seen.append(out.detach().requires_grad_())
        return seen[-1]

    handle = norm.register_forward_hook(keep)
    try:
        logits = network(images)
    finally:
        handle.remove()
    if not _has_map(network, seen[-1], images):
        return None
    return next(name for name, module in network.named_modules() if module is norm), seen[-1], logits


def _has_map(network: Any, x: Tensor, images: Tensor) -> bool:
    if x.ndim != 3:
        return x.ndim == 4
    tokens = x.shape[1] - getattr(network, "num_prefix_tokens", 0)
    try:
        # one token is a class token, or the mean of all
        return tokens > 1 and min(proportional(tokens, (images.shape[2], images.shape[3]))) > 0
    except UnknownLayoutError:
        return False


def _as_map(network: Any, x: Tensor, images: Tensor) -> Tensor:
    """Returns a map (B, C, H, W)."""
    if x.ndim == 4:
        is_last = getattr(network, "output_fmt", "NCHW") == "NHWC" or x.shape[1] != network.num_features
        return x.permute(0, 3, 1, 2) if is_last else x
    x = x[:, getattr(network, "num_prefix_tokens", 0) :]
    return x.unflatten(1, proportional(x.shape[1], (images.shape[2], images.shape[3]))).permute(0, 3, 1, 2)
