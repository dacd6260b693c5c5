"""Gradient checkpointing that updates the statistics of batch norms once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from timm.models import checkpoint
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def checkpointed(module: nn.Module, *inputs: Any) -> Any:
    """Returns module(*inputs), whose activations are recomputed in the backward pass."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
    # a compiler does not repeat a change of a buffer
    if not norms or torch.compiler.is_compiling():
        return checkpoint(module, *inputs)
    return checkpoint(
        module, *inputs, use_reentrant=False, context_fn=lambda: (nullcontext(), _keeping_statistics(norms))
    )


def checkpointed_sequence(modules: Iterable[nn.Module], x: Any) -> Any:
    """Runs modules one after the other, each checkpointed."""
    for module in modules:
        x = checkpointed(module, x)
    return x


@contextmanager
def _keeping_statistics(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Keeps the running statistics of batch norms while their outputs are computed from the batch."""
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            # `track_running_stats=False` would save fewer tensors for the backward pass than the forward pass did
            norm.momentum, norm.num_batches_tracked = 0.0, None
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count
