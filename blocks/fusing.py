"""Folding layers into fewer for inference: a layer that can be less says so with a method `fuse`."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def fuse(module: Module) -> Module:
    """Replaces, in place, every layer inside that has a method `fuse` with what it returns.

    Norms are folded into convolutions, and residual and parallel branches into one kernel: the result computes the
    same in evaluation mode, up to rounding, with fewer operations. The names and shapes of parameters change, so a
    checkpoint is to be loaded before. `timm.models.reparameterize_model` knows the same method.

    Args:
        module: a network or a part of one, in evaluation mode.

    Returns:
        The module itself.

    Raises:
        ValueError: it is in training mode, in which norms are not constants.
    """
    if module.training:
        raise ValueError("only a module in evaluation mode can be fused: call .eval() before")
    for name, child in module.named_children():
        replacement = getattr(child, "fuse", None)
        setattr(module, name, fuse(child) if replacement is None else replacement())
    return module
