"""PlainMamba with the scan of Mamba's reference formulation, one token after another; its kernel needs a GPU.

Shape legend: B batch, H W map, L = H * W, C channels, E channels that are scanned, N numbers of the state of a channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.blocks import ContinuousScan
from attnzoo.blocks.scan_routes import routes_on_map

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """Copies one of our models, and replaces its scans with the official formulation; it is not changed."""
    return swapped(model, {ContinuousScan: _FourScans})


class _FourScans(nn.Module):
    """One sequential scan for each of the four routes."""

    def __init__(self, layer: ContinuousScan) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        batch, height, width, _ = x.shape
        x, z = layer.in_proj(x).chunk(2, dim=3)
        # (B, E, L)
        x = F.silu(layer.conv(x.permute(0, 3, 1, 2).contiguous())).flatten(2)
        parts = layer.x_proj(x.transpose(1, 2)).split([layer.rank, layer.state_dim, layer.state_dim], dim=2)
        delta = F.softplus(layer.dt_proj(parts[0]) + layer.dt_proj.bias).transpose(1, 2)
        A, inputs, outputs = -layer.A_log.exp(), parts[1], parts[2].transpose(1, 2)
        out = 0
        for route, moves in zip(*routes_on_map("snake", height, width, x), strict=True):
            along = (inputs + layer.directions[moves]).transpose(1, 2)
            y = _sequential(x[:, :, route], delta, A, along, outputs, layer.D)
            out = out + y[:, :, route.argsort()]
        out = out.transpose(1, 2).reshape(batch, height, width, -1)
        return layer.out_proj(out * F.silu(z))


def _sequential(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """(B, E, L), (B, E, L), (E, N), (B, N, L), (B, N, L), (E,) -> (B, E, L)."""
    decay = torch.exp(torch.einsum("bel,en->beln", delta, A))
    added = torch.einsum("bel,bnl,bel->beln", delta, B, u)
    state, out = torch.zeros_like(added[:, :, 0]), []
    for step in range(u.shape[2]):
        state = decay[:, :, step] * state + added[:, :, step]
        out.append(torch.einsum("ben,bn->be", state, C[:, :, step]))
    return torch.stack(out, 2) + u * D.unsqueeze(1)
