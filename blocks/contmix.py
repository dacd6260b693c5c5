"""ContMix: convolution whose kernels are made, position by position, of what the map has in common with its context.

Shape legend: B batch, H W map, C channels of the map, S of its context, g heads, d = C / 2g, K k sides of the kernels.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
import contextlib

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_function, register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels import neighborhood_av, neighborhood_bias

from .convolution import ConvNorm, NormLinear
from .linear import Linear
from .reparam import DilatedReparamConv
from .response import GlobalResponseNorm, SqueezeExcite


@register_notrace_function
def resize(x: Tensor, height: int, width: int) -> Tensor:
    """Interpolates a map linearly: (B, H, W, C) -> (B, height, width, C)."""
    x = F.interpolate(x.permute(0, 3, 1, 2), size=[height, width], mode="bilinear", align_corners=False)
    return x.permute(0, 2, 3, 1)


@register_notrace_module  # whether to enlarge depends on the size of the map
class ContMix(nn.Module):
    """Context-mixing dynamic convolution, gated, beside a static one: (B, H, W, C + S) -> (B, H, W, C + S).

    Queries come from the map and keys from its context, pooled to 7 x 7 cells. A position's affinities to the cells
    become, by one linear map, the weights of its neighborhoods: k x k for the first half of the channels, K x K for
    the second; a relative position table is added and a softmax taken, as in neighborhood attention. A map with a side
    shorter than K is enlarged for this, and the result is pooled back.

    The affinities are raw dot products, which no norm bounds, and the official code takes them, and their linear map,
    in 16 bits where autocast is on: past 65504 they are infinite in float16, and the softmax of that is NaN. Here they
    are float32 from queries and keys to the softmax.

    Args:
        dim: channels C of the map, a multiple of 2 * num_heads.
        context_dim: channels S of the context.
        num_heads: heads g.
        kernel_size: K, odd, from 5 to 19.
        small_kernel_size: k, at most K.

    Raises:
        ValueError: `dim` is not a multiple of 2 * num_heads, or the kernel sizes are not allowed.

    Source: OverLoCK, arXiv 2502.20087, section 3.3. The code scales queries by (C / g) ** -0.5, the paper by the root
    of the width of a head, which is d.
    """

    def __init__(
        self, dim: int, context_dim: int, num_heads: int, kernel_size: int = 7, small_kernel_size: int = 5
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads, got {dim} channels for {num_heads} heads")
        if not 1 <= small_kernel_size <= kernel_size:
            raise ValueError(f"small_kernel_size must be from 1 to {kernel_size}, got {small_kernel_size}")
        self.dim, self.num_heads = dim, num_heads
        self.kernel_size, self.small_kernel_size = kernel_size, small_kernel_size
        out_dim = dim + context_dim
        self.fusion = nn.Sequential(
            ConvNorm(out_dim, out_dim, 3, groups=out_dim, bias=True),
            nn.GELU(),
            Linear(out_dim, dim),
            GlobalResponseNorm(dim),
        )
        self.gate = nn.Sequential(ConvNorm(dim, dim), nn.SiLU())
        self.static = DilatedReparamConv(dim, kernel_size)
        self.query = ConvNorm(dim, dim // 2)
        self.key = ConvNorm(context_dim, dim // 2)
        self.weights = Linear(7 * 7, small_kernel_size**2 + kernel_size**2)
        self.rpb1 = nn.Parameter(torch.zeros(num_heads, 2 * small_kernel_size - 1, 2 * small_kernel_size - 1))
        self.rpb2 = nn.Parameter(torch.zeros(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.dynamic_proj = ConvNorm(dim, dim)
        self.se = SqueezeExcite(dim)
        self.proj = NormLinear(dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C + S) -> (B, H, W, C + S), the context behind the map."""
        height, width = x.shape[1], x.shape[2]
        values = self.fusion(x)
        gate, static = self.gate(values), self.static(values)
        shorter = min(height, width)
        if shorter < self.kernel_size:
            # as the official code rounds, with the division first
            rows = int(self.kernel_size / width * height) if width <= height else self.kernel_size
            columns = int(self.kernel_size / height * width) if height < width else self.kernel_size
            values, x = resize(values, rows, columns), resize(x, rows, columns)
        # the context is pooled to this grid, whatever the size of the map
        context = self._pool(x[..., self.dim :], 7, 7)
        mixed = self._mix(values, self.query(x[..., : self.dim]), self.key(context))
        if shorter < self.kernel_size:
            mixed = self._pool(mixed, height, width)
        return self.proj(gate * self.se(self.dynamic_proj(mixed) + static))

    def _pool(self, x: Tensor, height: int, width: int) -> Tensor:
        """Means of cells: (B, H, W, C) -> (B, height, width, C)."""
        if x.shape[1] == height and x.shape[2] == width:
            return x
        return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), (height, width)).permute(0, 2, 3, 1)

    # TorchScript cannot read the operators; it calls them
    @torch.jit.ignore
    def _mix(self, values: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
        """Each half of the values, (B, H, W, C), summed with its weights."""
        height, width = values.shape[1:3]
        dtype = torch.promote_types(values.dtype, torch.float32)
        # the first half's heads, then the second's: (B, H, W, C) -> two of (B, H, W, g, d)
        halves = values.unflatten(-1, (2, self.num_heads, -1)).unbind(3)
        with _without_autocast(values.device.type):
            # (B, H, W, C / 2) -> (B, g, HW, d), (B, 7, 7, C / 2) -> (B, g, d, 49)
            queries = queries.to(dtype).unflatten(-1, (self.num_heads, -1)).flatten(1, 2).transpose(1, 2)
            keys = keys.to(dtype).unflatten(-1, (self.num_heads, -1)).flatten(1, 2).permute(0, 2, 3, 1)
            # the linear map goes to the keys first: d is less than the 49 cells
            kernels = (keys * (self.dim / self.num_heads) ** -0.5) @ self.weights.weight.to(dtype).T
            places = [self.small_kernel_size**2, self.kernel_size**2]
            weights = []
            for kernel, shift, table in zip(
                kernels.split(places, -1),
                self.weights.bias.to(dtype).split(places),
                (self.rpb1, self.rpb2),
                strict=True,
            ):
                # (H, W, g, places) -> (g, HW, places)
                bias = neighborhood_bias(table.to(dtype), (height, width)).permute(2, 0, 1, 3).flatten(1, 2)
                # (B, g, HW, places) -> (B, H, W, g, places)
                scores = queries @ kernel + (bias + shift)
                weights.append(scores.softmax(-1).transpose(1, 2).unflatten(1, (height, width)).to(values.dtype))
        sizes = self.small_kernel_size, self.kernel_size
        mixed = [neighborhood_av(*pair) for pair in zip(weights, halves, sizes, strict=True)]
        return torch.stack(mixed, 3).flatten(3)

    def extra_repr(self) -> str:
        """What the module's children do not show."""
        return f"num_heads={self.num_heads}, kernel_size={self.kernel_size}, small={self.small_kernel_size}"


def _without_autocast(device: str) -> contextlib.AbstractContextManager[object]:
    """Autocast off where it is on; nothing otherwise, which leaves nothing in an exported graph."""
    if torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
