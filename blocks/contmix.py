"""ContMix: convolution with a separate kernel per position, computed from affinities of the map and its context.

Shape legend: B batch, H W map, C channels of the map, S of its context, g heads, d = C / 2g, K k sides of the kernels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels import is_dynamic

from .context_mixing import CELLS, MixingWeights, enlarged, mix, mix_dynamic
from .convolution import ConvNorm, NormLinear
from .norm import GlobalResponseNorm
from .reparam import DilatedReparamConv
from .resizing import pool_to, resize
from .shortcuts import is_unmodified
from .squeeze_excite import SqueezeExcite


@register_notrace_module  # whether to enlarge depends on the size of the map
class ContMix(nn.Module):
    """Gated sum of a context-mixing dynamic convolution and a static one: (B, H, W, C + S) -> (B, H, W, C + S).

    Queries come from the map, and keys from its context, pooled to 7 x 7 cells. A linear map turns the affinities of a
    position to the cells into the weights of its neighborhoods: k x k for the first half of the channels, K x K for the
    second. A relative position table is added and a softmax taken, as in neighborhood attention. A map with a side
    shorter than K is enlarged for this, and the result is pooled back.

    The affinities are unnormalized dot products. With autocast the official code computes them and their linear map in
    16 bits: above 65504 they are infinite in float16, and the softmax returns NaN. Here everything from queries and
    keys to the softmax is float32.

    Args:
        dim: channels C of the map, a multiple of 2 * num_heads.
        context_dim: channels S of the context.
        num_heads: heads g.
        kernel_size: K, odd, from 5 to 19.
        small_kernel_size: k, at most K.

    Raises:
        ValueError: `dim` is not a multiple of 2 * num_heads, or the kernel sizes are not allowed.

    Source: OverLoCK, arXiv 2502.20087, section 3.3. The code scales queries by (C / g) ** -0.5, the paper by
    d ** -0.5, where d is the width of a head.
    """

    def __init__(
        self, dim: int, context_dim: int, num_heads: int, kernel_size: int = 7, small_kernel_size: int = 5
    ) -> None:
        super().__init__()
        if dim % (2 * num_heads):
            raise ValueError(f"dim must be a multiple of 2 * num_heads, got {dim} channels for {num_heads} heads")
        if not 1 <= small_kernel_size <= kernel_size:
            raise ValueError(f"small_kernel_size must be from 1 to {kernel_size}, got {small_kernel_size}")
        self.dim, self.num_heads, self.scale = dim, num_heads, (dim / num_heads) ** -0.5
        self.kernel_size, self.small_kernel_size, self.cells = kernel_size, small_kernel_size, CELLS
        out_dim = dim + context_dim
        self.fusion = nn.Sequential(
            ConvNorm(out_dim, out_dim, 3, groups=out_dim, bias=True),
            nn.GELU(),
            nn.Linear(out_dim, dim),
            GlobalResponseNorm(dim),
        )
        self.gate = nn.Sequential(ConvNorm(dim, dim), nn.SiLU())
        self.static = DilatedReparamConv(dim, kernel_size)
        self.query = ConvNorm(dim, dim // 2)
        self.key = ConvNorm(context_dim, dim // 2)
        self.weights = nn.Linear(CELLS * CELLS, small_kernel_size**2 + kernel_size**2)
        self.rpb1 = nn.Parameter(torch.zeros(num_heads, 2 * small_kernel_size - 1, 2 * small_kernel_size - 1))
        self.rpb2 = nn.Parameter(torch.zeros(num_heads, 2 * kernel_size - 1, 2 * kernel_size - 1))
        self.dynamic_proj = ConvNorm(dim, dim)
        self.se = SqueezeExcite(dim)
        self.proj = NormLinear(dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C + S) -> (B, H, W, C + S), with the channels of the context after those of the map."""
        height, width = x.shape[1], x.shape[2]
        values = self.fusion(x)
        gate, static = self.gate(values), self.static(values)
        learned = self._learned()
        if is_dynamic([height, width]):
            queries, keys = self.query(x[..., : self.dim]), self.key(x[..., self.dim :])
            mixed = mix_dynamic(values, queries, keys, learned, self.scale)
            return self.proj(gate * self.se(self.dynamic_proj(mixed) + static))
        rows, columns = enlarged(height, width, self.kernel_size)
        if rows != height or columns != width:
            values, x = resize(values, rows, columns), resize(x, rows, columns)
        context = pool_to(x[..., self.dim :], self.cells, self.cells)
        mixed = mix(values, self.query(x[..., : self.dim]), self.key(context), learned, self.scale)
        mixed = pool_to(mixed, height, width)
        return self.proj(gate * self.se(self.dynamic_proj(mixed) + static))

    def _learned(self) -> MixingWeights:
        if torch.jit.is_scripting():
            return MixingWeights(self.weights.weight, self.weights.bias, self.rpb1, self.rpb2)
        return self._read()

    @torch.jit.unused
    def _read(self) -> MixingWeights:
        """Returns the learned parameters; a linear map that was replaced, or has hooks, is applied to a basis."""
        if is_unmodified(self.weights, nn.Linear):
            return MixingWeights(self.weights.weight, self.weights.bias, self.rpb1, self.rpb2)
        count = self.cells**2
        basis = torch.eye(count + 1, count, dtype=self.rpb1.dtype, device=self.rpb1.device)
        images = self.weights(basis)
        return MixingWeights((images[:-1] - images[-1]).T, images[-1], self.rpb1, self.rpb2)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, kernel_size={self.kernel_size}, small={self.small_kernel_size}"
