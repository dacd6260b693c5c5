"""Agent attention: a few pooled queries, the agents, attend to all tokens, and all tokens attend to the agents.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, a agents (a square number), T tokens: H * W, plus one
with a class token.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from .attention import SelfAttention, attended
from .cache import Cache
from .convolution import channels_last_conv, depthwise
from .cpu import linear
from .resizing import has_size, pool_to

# side of the grids on which the position biases of agents are learned
GRID = 7


class AgentBiases(nn.Module):
    """Position biases of the two attentions: from agents to tokens, and from tokens to agents.

    A bias is the sum of a 7x7 grid and of two lines as long as the sides of the training map. The grid is interpolated
    bilinearly to the map. The sum of the lines is interpolated too if the map has another size, as in dense
    prediction. In evaluation mode without gradients the result is cached until a parameter or the map size changes.

    Args:
        num_heads: heads h.
        num_agents: agents a with learned biases, a square number.
        map_size: the map (rows, columns) that the lines are learned on.
        class_token: whether a class token, with its own biases, comes before the tokens of the map.
        dense_agents: agents used instead of num_agents, a square number, with biases interpolated from those of
            num_agents; None for num_agents.

    Raises:
        ValueError: a number of agents is not a square.

    Source: Agent Attention, arXiv 2312.08874, section 3.3. The shapes and both resizing rules are from the official
        code.
    """

    def __init__(
        self,
        num_heads: int,
        num_agents: int,
        map_size: tuple[int, int],
        class_token: bool = False,
        dense_agents: int | None = None,
    ) -> None:
        super().__init__()
        self.side = _side_of(num_agents)
        self.dense_side = self.side if dense_agents is None else _side_of(dense_agents)
        rows, columns = map_size
        # a* are biases of agents that attend to tokens, *a of tokens that attend to agents
        self.an_bias = _table(num_heads, num_agents, GRID, GRID)
        self.na_bias = _table(num_heads, num_agents, GRID, GRID)
        self.ah_bias = _table(1, num_heads, num_agents, rows, 1)
        self.aw_bias = _table(1, num_heads, num_agents, 1, columns)
        self.ha_bias = _table(1, num_heads, rows, 1, num_agents)
        self.wa_bias = _table(1, num_heads, 1, columns, num_agents)
        self.ac_bias: nn.Parameter | None = _table(1, num_heads, num_agents, 1) if class_token else None
        self.ca_bias: nn.Parameter | None = _table(1, num_heads, 1, num_agents) if class_token else None
        self._cache = Cache()

    def forward(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Returns the biases of agents, (1, h, a, T), and of tokens, (1, h, T, a), for a map size and a dtype."""
        if torch.jit.is_scripting():
            return self._interpolated(height, width, dtype)
        return self._cached(height, width, dtype)

    @torch.jit.unused
    def _cached(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        key = height, width, dtype
        return self._cache.get(self, key, lambda: self._interpolated(height, width, dtype))

    def _interpolated(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # (1, h, a, H, 1) + (1, h, a, 1, W) -> (1, h, a, H, W)
        lines = self.ah_bias + self.aw_bias
        to_agents = self._on_map(self.an_bias, lines, height, width)
        # (1, h, H, 1, a) + (1, h, 1, W, a) -> (1, h, a, H, W)
        lines = (self.ha_bias + self.wa_bias).permute(0, 1, 4, 2, 3)
        to_tokens = self._on_map(self.na_bias, lines, height, width).transpose(1, 2)
        of_class, by_class = self.ac_bias, self.ca_bias
        if of_class is not None and by_class is not None:
            # the class token comes first: as a key of the agents and as a query
            to_agents = torch.cat([self._of_dense_agents(of_class[0]), to_agents], dim=2)
            asked = self._of_dense_agents(by_class[0].transpose(1, 2)).transpose(1, 2)
            to_tokens = torch.cat([asked, to_tokens], dim=1)
        # contiguous: the copy is made once and read often
        return to_agents.unsqueeze(0).to(dtype), to_tokens.contiguous().unsqueeze(0).to(dtype)

    def _on_map(self, grid: Tensor, lines: Tensor, height: int, width: int) -> Tensor:
        """A grid (h, a, 7, 7) and the sum of two lines (1, h, a, rows, columns) -> (h, a, H * W)."""
        biases = _resize(grid, height, width) + _resize(lines[0], height, width)
        return self._of_dense_agents(biases.flatten(2))

    def _of_dense_agents(self, biases: Tensor) -> Tensor:
        """(h, a of num_agents, T) -> (h, a of dense_agents, T)."""
        if self.dense_side == self.side:
            return biases
        # (h, a, T) -> (h, T, side, side) -> (h, T, dense side, dense side) -> (h, a, T)
        grid = biases.transpose(1, 2).unflatten(2, [self.side, self.side])
        return _resize(grid, self.dense_side, self.dense_side).flatten(2).transpose(1, 2)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "AgentBiases":
        # `to(memory_format=torch.channels_last)` takes no tensors of five axes; the first has length 1
        return super()._apply(lambda x: fn(x[0]).unsqueeze(0) if x.ndim == 5 else fn(x), recurse)

    def train(self, mode: bool = True) -> "AgentBiases":
        """Switches to training or evaluation mode, and clears the cached biases."""
        self._cache.clear()
        return super().train(mode)


@register_notrace_module  # biases depend on the size of the map
class AgentAttention(SelfAttention):
    """Agent attention over a map, or over a class token and a map.

    The queries of the map are pooled to agents. The agents attend to all tokens, and all tokens attend to the agents,
    both with a position bias. A depthwise convolution of the map's values is added. The map can have any size.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        num_agents: agents a, a square number.
        map_size: the map (rows, columns) that position biases are learned on.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout rate after the output projection.
        dense_agents: agents used instead of num_agents, see `AgentBiases`.
        class_token: whether a class token comes before the tokens of the map; then `forward_tokens` must be called.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or a number of agents is not a square.

    Source: Agent Attention, arXiv 2312.08874, section 3.2, eq. 5, and 3.3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_agents: int = 49,
        map_size: tuple[int, int] = (14, 14),
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        dense_agents: int | None = None,
        class_token: bool = False,
    ) -> None:
        super().__init__(dim, num_heads, qkv_bias, proj_drop)
        self.class_tokens = int(class_token)
        self.biases = AgentBiases(num_heads, num_agents, map_size, class_token, dense_agents)
        self.dwc = depthwise(dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.forward_tokens(x.flatten(1, 2), x.shape[1], x.shape[2]).reshape(x.shape)

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """Tokens (B, T, C), a class token first if there is one, and the size of their map -> (B, T, C)."""
        # (B, T, 3C) -> queries, keys and values (B, T, C)
        q, k, v = linear(self.qkv, x).chunk(3, dim=2)
        of_map = q[:, self.class_tokens :].unflatten(1, [height, width])
        side = self.biases.dense_side
        # (B, H, W, C) -> (B, side, side, C) -> (B, a, C)
        pooled = pool_to(of_map, side, side).flatten(1, 2)
        # for one image a compiler assumes other strides than pooling returns: attention must not depend on them
        agents = self._by_head(pooled.clone(memory_format=torch.contiguous_format))
        to_agents, to_tokens = self.biases(height, width, q.dtype)
        gathered = F.scaled_dot_product_attention(agents, self._by_head(k), self._by_head(v), to_agents)
        # (B, h, T, D) -> (B, T, C)
        out = attended(self._by_head(q), agents, gathered, to_tokens)
        # (B, T, C) -> (B, H, W, C), without the class token
        local = channels_last_conv(self.dwc, v[:, self.class_tokens :].unflatten(1, [height, width])).flatten(1, 2)
        if self.class_tokens > 0:
            local = F.pad(local, [0, 0, self.class_tokens, 0])
        return self.proj_drop(linear(self.proj, out + local))

    def _by_head(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, h, T, D)."""
        return x.unflatten(2, [self.num_heads, self.head_dim]).transpose(1, 2)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return f"num_heads={self.num_heads}, agents={self.biases.dense_side**2}"


def _side_of(num_agents: int) -> int:
    side = math.isqrt(num_agents) if num_agents > 0 else 0
    if side < 1 or side**2 != num_agents:
        raise ValueError(f"the number of agents must be a square number (1, 4, 9, ...), got {num_agents}")
    return side


def _table(*shape: int) -> nn.Parameter:
    return nn.Parameter(trunc_normal_(torch.zeros(shape), std=0.02))


def _resize(grid: Tensor, height: int, width: int) -> Tensor:
    """Resizes bilinearly: (h, a, rows, columns) -> (h, a, height, width); returns the input if it has that size."""
    if has_size(grid.shape[2], grid.shape[3], height, width):
        return grid
    return F.interpolate(grid, [height, width], mode="bilinear")


def resize_line(line: Tensor, length: int, dim: int) -> Tensor:
    """Interpolates a line of position biases linearly, as the official code does to fine-tune at another size.

    Args:
        line: biases, of any shape (1, h, ..).
        length: the new length of the axis `dim`.
        dim: the axis of the positions.

    Returns:
        The line with the new length; the input itself if it already has that length.
    """
    if line.shape[dim] == length:
        return line
    # (.., L, ..) -> (rest, 1, L)
    moved = line.float().movedim(dim, -1)
    resized = F.interpolate(moved.reshape(-1, 1, line.shape[dim]), size=length, mode="linear")
    return resized.reshape(*moved.shape[:-1], length).movedim(-1, dim).to(line.dtype)
