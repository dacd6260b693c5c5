"""A small network for tests of the export."""

from __future__ import annotations

import torch
from torch import nn


class Tiny(nn.Module):
    """A classifier that exports in a second: pooled colors, a branch with zero gain, a linear head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.branch = nn.Conv2d(3, 3, 3, padding=1)
        self.gain = nn.Parameter(torch.zeros(3, 1, 1))
        self.head = nn.Linear(3, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head((x + self.gain * self.branch(x).tanh()).mean((2, 3)))
