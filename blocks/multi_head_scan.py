"""Multi-head selective scan: every head scans the map along routes of another pattern.

Shape legend: B batch, H W map, L = H * W, C channels, P patterns, D = C / P channels of a head, N numbers of the state
of a channel.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .cpu import linear
from .operators import scan_routes, tokens_of_steps
from .scan_routes import routes_on_map

# in the order of the heads
_PATTERNS = ("snake", "diagonal", "spiral", "raster")


@register_notrace_module  # the routes depend on the size of the map
class MultiHeadScan(nn.Module):
    """Selective scans in four heads along four routes each: (B, H, W, C) -> (B, H, W, C).

    The routes of a head are the two of its pattern, see `attnzoo.kernels.selective_scan.geometry`, forwards and
    backwards. Every route has its own parameters. The results of the four routes of a head are added, and weighted by
    how much they differ: by their coefficient of variation, above their least value, minus a threshold.

    Args:
        dim: channels C, a multiple of 4.
        state_dim: numbers N of the state of a channel.
        threshold: least coefficient of variation of results that count.

    Raises:
        ValueError: `dim` is not a multiple of 4.

    Source: MHS-VM, arXiv 2406.05992, sections 3.2 and 3.3; the initialization is Mamba's, arXiv 2312.00752.
    """

    def __init__(self, dim: int, state_dim: int = 16, threshold: float = 0.0) -> None:
        super().__init__()
        heads = len(_PATTERNS)
        if dim % heads:
            raise ValueError(f"the channels must be a multiple of {heads}, got {dim}")
        routes, width = 4 * heads, dim // heads
        self.state_dim, self.threshold = state_dim, threshold
        self.rank = -(-width // 16)
        self.in_proj = nn.Linear(dim, dim, bias=False)
        self.x_proj = nn.Parameter(_uniform(routes, self.rank + 2 * state_dim, width))
        self.dt_proj = nn.Parameter(_uniform(routes, width, self.rank))
        # with the biases alone, step sizes are log-uniform from 0.001 to 0.1: the inverse of softplus
        sizes = torch.exp(torch.empty(routes, width).uniform_(math.log(1e-3), math.log(1e-1)))
        self.dt_bias = nn.Parameter(sizes + torch.log(-torch.expm1(-sizes)))
        self.A_log = nn.Parameter(torch.arange(1, state_dim + 1).float().log().repeat(routes, width, 1))
        self.D = nn.Parameter(torch.ones(routes, width))
        self.norm = nn.LayerNorm(dim)
        self.out_proj = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width, heads = x.shape[1], x.shape[2], len(_PATTERNS)
        # (B, H, W, C) -> (B, L, 4P, D): the channels of a head for each of its routes
        x = linear(self.in_proj, x).flatten(1, 2).unflatten(2, (heads, -1)).repeat_interleave(4, dim=2)
        routes = torch.cat([routes_on_map(pattern, height, width, x)[0] for pattern in _PATTERNS])
        parameters = torch.einsum("blsd,scd->blsc", tokens_of_steps(x, routes), self.x_proj)
        sizes, inputs, outputs = parameters.split([self.rank, self.state_dim, self.state_dim], dim=3)
        delta = F.softplus(torch.einsum("blsr,sdr->blsd", sizes, self.dt_proj) + self.dt_bias)
        A = -self.A_log.to(torch.promote_types(x.dtype, torch.float32)).exp()
        y = scan_routes(x, delta.to(inputs.dtype), A, inputs, outputs, self.D, routes)
        # (B, L, P, 4, D) -> (B, L, P, D) -> (B, H, W, C)
        y = self._fused(y.unflatten(2, (heads, 4))).flatten(2).unflatten(1, (height, width))
        return linear(self.out_proj, self.norm(y))

    def _fused(self, y: Tensor) -> Tensor:
        """Adds the results of the routes, weighted by their variation: (B, L, P, 4, D) -> (B, L, P, D)."""
        above = (y - y.amin(3, keepdim=True)).mean(3)
        variation = y.std(3) / (above + 1e-5)
        return y.sum(3) * F.relu(variation - self.threshold)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"dim={self.in_proj.in_features}, state_dim={self.state_dim}, threshold={self.threshold}"


def _uniform(*shape: int) -> Tensor:
    """Returns weights as those of a linear layer with inputs on the last axis."""
    bound = shape[-1] ** -0.5
    return torch.empty(shape).uniform_(-bound, bound)
