"""The last map of a network whose layout of tokens is not known, found among the outputs of its modules."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .maps import UnknownLayoutError, proportional


def last_map(network: Any, images: Tensor, target: int | None) -> tuple[str, Tensor, Tensor]:
    """Finds the last output of a module that is a map, or tokens that fit one, and that a score depends on.

    Only outputs as wide as the features of a stage count, which parts of attention are not. After the last attention of
    a class token, the score depends on no other token any more: such outputs are skipped.

    Args:
        network: a classifier in evaluation mode.
        images: (B, in_chans, H, W).
        target: index of the class; None for that with the highest score.

    Returns:
        The name of the module, its output and the gradient of the score as maps (B, C, rows, columns).

    Raises:
        ValueError: there is no such output.
    """
    widths = _widths(network)
    seen: dict[str, Tensor] = {}

    def keep(name: str, out: Any) -> None:
        # a module that is called again counts where it is called last
        seen.pop(name, None)
        if isinstance(out, Tensor) and out.requires_grad and as_map(out, len(images), images.shape, widths) is not None:
            seen[name] = out

    handles = [
        module.register_forward_hook(lambda module, args, out, name=name: keep(name, out))
        for name, module in network.named_modules()
        # projections to queries, keys and values
        if name and not isinstance(module, nn.Linear)
    ]
    try:
        logits = network(images.detach().requires_grad_())
    finally:
        for handle in handles:
            handle.remove()
    scores = class_scores(logits, target)
    names = list(reversed(seen))
    gradients = torch.autograd.grad(scores.sum(), [seen[name] for name in names], allow_unused=True) if names else ()
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is None:
            continue
        of_map = as_map(gradient, len(images), images.shape, widths)
        if of_map is not None and of_map.count_nonzero():
            features = as_map(seen[name].detach(), len(images), images.shape, widths)
            assert features is not None
            return name, features, of_map
    raise ValueError(
        f"Grad-CAM finds no map in {type(network).__name__}: no layer returns one that its score depends on"
    )


def class_scores(logits: Tensor, target: int | None) -> Tensor:
    """Returns the scores of a class, or the highest ones, of logits (B, classes): (B,)."""
    return logits.amax(1) if target is None else logits[:, target]


def as_map(x: Tensor, batch: int, size: Any, widths: set[int]) -> Tensor | None:
    """Returns an output as a map (B, C, rows, columns); None if it is none of images (.., H, W)."""
    if x.ndim not in (3, 4) or len(x) != batch:
        return None
    height, width = size[-2:]
    if x.ndim == 4:
        # channels last, or first
        for y in (x.permute(0, 3, 1, 2), x):
            rows, columns = y.shape[2:]
            # of strides that need not divide the images
            near = abs(rows * width - columns * height) < max(height, width)
            if y.shape[1] in widths and 1 < rows * columns <= height * width and near:
                return y
        return None
    if x.shape[2] not in widths:
        return None
    # tokens of classes and of distillation come first
    for prefix in range(3):
        tokens = x[:, prefix:]
        try:
            rows, columns = proportional(tokens.shape[1], (height, width))
        except UnknownLayoutError:
            continue
        if min(rows, columns) > 1:
            return tokens.unflatten(1, (rows, columns)).permute(0, 3, 1, 2)
    return None


def _widths(network: Any) -> set[int]:
    """Returns the numbers of channels that the features of a network may have."""
    infos = getattr(network, "feature_info", None) or []
    widths = {int(info["num_chs"]) for info in infos if isinstance(info, dict)}
    widths.add(int(getattr(network, "num_features", 0)))
    # branches of several widths have a norm or a head for each
    widths.update(int(module.normalized_shape[-1]) for module in network.modules() if isinstance(module, nn.LayerNorm))
    return widths
