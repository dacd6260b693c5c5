"""Fuses layers for inference: every layer that can be replaced by a simpler one has a method `fuse`."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from .cpu import pack

Module = TypeVar("Module", bound=nn.Module)


def fuse(module: Module) -> Module:
    """Replaces, in place, every submodule that has a method `fuse` with the layer that it returns.

    Norms are folded into convolutions, and residual and parallel branches into one kernel. In evaluation mode the
    result is the same up to rounding, with fewer operations. The names and shapes of parameters change, so checkpoints
    must be loaded before. `timm.models.reparameterize_model` calls the same methods.

    Args:
        module: a network or a part of one, in evaluation mode.

    Returns:
        The module itself.

    Raises:
        ValueError: the module is in training mode, where norms are not constant.
    """
    if module.training:
        raise ValueError("only a module in evaluation mode can be fused: call .eval() first")
    for name, child in module.named_children():
        replacement = getattr(child, "fuse", None)
        setattr(module, name, fuse(child) if replacement is None else replacement())
        if type(child) is nn.Linear:
            pack(child)
    return module
