"""Gated convolution: linear layers around a gate and a depthwise convolution of part of the channels.

Shape legend: B batch, H W map, C channels, D hidden channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .convolution import channels_last_conv, depthwise
from .cpu import linear
from .shortcuts import is_plain_cpu


@register_notrace_module  # takes another path where gradients are enabled
class GatedConv(nn.Module):
    """GELU(gate) * values, with a depthwise convolution of the last C values: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        expansion: D divided by C, at least 1.
        kernel_size: odd kernel size of the convolution.

    Source: MambaOut, arXiv 2405.07992, section 4.1, after Gated CNN, arXiv 1612.08083.
    """

    def __init__(self, dim: int, expansion: float = 8 / 3, kernel_size: int = 7) -> None:
        super().__init__()
        hidden_dim = int(expansion * dim)
        self.widths = [hidden_dim - dim, dim]
        # two layers: the halves of one layer's output would be strided
        self.gate = nn.Linear(dim, hidden_dim)
        self.value = nn.Linear(dim, hidden_dim)
        self.conv = depthwise(dim, kernel_size)
        self.proj = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        gate = F.gelu(linear(self.gate, x))
        # (B, H, W, D) -> (B, H, W, D - C | C)
        passing, x = linear(self.value, x).split(self.widths, dim=3)
        x = channels_last_conv(self.conv, x)
        if is_plain_cpu(gate) and not torch.is_grad_enabled():
            return linear(self.proj, self._gated_in_place(gate, passing, x))
        return linear(self.proj, gate * torch.cat((passing, x), dim=3))

    @torch.jit.unused
    def _gated_in_place(self, gate: Tensor, passing: Tensor, x: Tensor) -> Tensor:
        # nothing is stored for the backward pass, so no copies are needed
        for part, values in zip(gate.split(self.widths, dim=3), (passing, x), strict=True):
            part.mul_(values)
        return gate
