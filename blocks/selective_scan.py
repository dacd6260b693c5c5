"""Token mixers that scan a map in four directions with a selective state space model.

Shape legend: B batch, H W map, L = H * W, C channels, E channels that are scanned, N numbers of the state of a channel.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from .convolution import channels_last_conv, depthwise
from .cpu import linear
from .operators import scan_routes
from .scan_routes import routes_on_map


@register_notrace_module  # the routes depend on the size of the map
class ContinuousScan(nn.Module):
    """Selective scan along four routes that only move to neighbors: (B, H, W, C) -> (B, H, W, C).

    The routes are the rows, every other one backwards, the columns likewise, and the reverse of both. A learned vector
    for the direction of each move is added to the inputs B of the state. As in the official code, the values of the
    tokens are read along the routes, but step sizes, inputs and outputs are those of the tokens in row-major order; and
    the bias of the step sizes is added twice.

    Args:
        dim: channels C.
        state_dim: numbers N of the state of a channel.
        expand: scanned channels E divided by C.
        kernel_size: kernel size of the depthwise convolution before the scan.

    Source: PlainMamba, arXiv 2403.17695, sections 3.2 and 3.3.
    """

    def __init__(self, dim: int, state_dim: int = 16, expand: int = 2, kernel_size: int = 7) -> None:
        super().__init__()
        inner, self.rank, self.state_dim = expand * dim, -(-dim // 16), state_dim
        self.in_proj = nn.Linear(dim, 2 * inner)
        self.conv = depthwise(inner, kernel_size)
        self.x_proj = nn.Linear(inner, self.rank + 2 * state_dim, bias=False)
        self.dt_proj = nn.Linear(self.rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, state_dim + 1).float().log().repeat(inner, 1))
        self.D = nn.Parameter(torch.ones(inner))
        self.directions = nn.Parameter(trunc_normal_(torch.zeros(5, state_dim), std=0.02))
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        x, z = linear(self.in_proj, x).chunk(2, dim=3)
        x = F.silu(channels_last_conv(self.conv, x)).flatten(1, 2)
        sizes, inputs, outputs = linear(self.x_proj, x).split([self.rank, self.state_dim, self.state_dim], dim=2)
        delta = F.softplus(linear(self.dt_proj, sizes) + self.dt_proj.bias)
        routes, moves = routes_on_map("snake", height, width, x)
        # (4, L) -> (L, 4, N), added to (B, L, 1, N)
        directions = self.directions[moves.t()].to(inputs.dtype)
        y = scan_routes(
            x.unsqueeze(2),
            delta.unsqueeze(2),
            -self.A_log.to(torch.promote_types(x.dtype, torch.float32)).exp().unsqueeze(0),
            inputs.unsqueeze(2) + directions,
            outputs.unsqueeze(2),
            self.D.unsqueeze(0),
            routes,
        )
        # (B, L, 4, E) -> (B, H, W, E)
        y = y.sum(2).unflatten(1, (height, width))
        return linear(self.out_proj, y * F.silu(z))
