"""Random statistics for batch norms."""

from __future__ import annotations

from torch import nn


def shaken(module: nn.Module) -> nn.Module:
    """Returns the module in evaluation mode, with random parameters and statistics of its batch norms."""
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.uniform_(child.running_var, 0.5, 1.5)
            nn.init.normal_(child.running_mean)
            nn.init.normal_(child.weight)
            nn.init.normal_(child.bias)
    return module.eval()
