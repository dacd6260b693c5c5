"""Computing in float32 at least, where half precision would overflow or lose an epsilon."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import contextlib

import torch
from torch import Tensor


def exact(x: Tensor) -> Tensor:
    """Returns a tensor in float32 at least."""
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(device: str) -> contextlib.AbstractContextManager[object]:
    """Disables autocast where it is on; otherwise does nothing, and leaves no trace in an exported graph."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
