"""Agent attention: a few pooled queries, the agents, gather from all tokens and hand on to all tokens.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, a agents (a square number), T tokens: H * W, and one
more where there is a class token.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
import math

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from .convolution import depthwise

# side of the grids that the position biases of agents are learned on
GRID = 7
# biases of more numbers are computed at every call: of large maps they would fill the memory
CACHED_NUMBERS = 2**22


@register_notrace_module  # biases depend on the size of the map
class AgentAttention(nn.Module):
    """Agent attention over a map.

    Queries are pooled to agents. The agents attend to all tokens, and all tokens attend to the agents, both under a
    bias of position; a depthwise convolution of the values is added. Positions are learned on a grid of 7x7 and on
    lines of the size of the map that the network is trained on. Elsewhere, in dense prediction, the sum of the lines is
    interpolated bilinearly to the map, as the grid always is.

    In evaluation without gradients the biases are interpolated once for a size of map and kept until a parameter or the
    size changes.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        num_agents: agents a, a square number, of which biases are learned.
        map_size: the map (rows, columns) that the lines are learned on.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout after the output projection.
        dense_agents: agents that there are instead of num_agents, a square number, with biases interpolated between
            those of num_agents; None for num_agents.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or a number of agents is not a square.

    Source: Agent Attention, arXiv 2312.08874, section 3.2, eq. 5, and 3.3. Shapes of biases and both rules of resizing
    are the official code's.
    """

    class_tokens = 0

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_agents: int = 49,
        map_size: tuple[int, int] = (14, 14),
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        dense_agents: int | None = None,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
        self.num_heads = num_heads
        self.map_size = map_size
        self.side = _side_of(num_agents)
        self.dense_side = self.side if dense_agents is None else _side_of(dense_agents)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.dwc = depthwise(dim, 3)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)
        rows, columns = map_size
        # of what agents gather (agent, then token) and of what they hand on (token, then agent)
        self.an_bias = _table(num_heads, num_agents, GRID, GRID)
        self.na_bias = _table(num_heads, num_agents, GRID, GRID)
        self.ah_bias = _table(1, num_heads, num_agents, rows, 1)
        self.aw_bias = _table(1, num_heads, num_agents, 1, columns)
        self.ha_bias = _table(1, num_heads, rows, 1, num_agents)
        self.wa_bias = _table(1, num_heads, 1, columns, num_agents)
        self._cache: tuple[tuple[object, ...], tuple[Tensor, Tensor]] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        return self._mix(x.flatten(1, 2), height, width).reshape(x.shape)

    # TorchScript cannot read the cache; it calls this
    @torch.jit.ignore
    def _mix(self, x: Tensor, height: int, width: int) -> Tensor:
        """Tokens (B, T, C) of a map -> (B, T, C)."""
        channels = x.shape[2]
        # (B, T, 3C) -> queries, keys and values (B, T, C)
        tokens = self.qkv(x).split(channels, -1)
        of_map = [part[:, self.class_tokens :].unflatten(1, (height, width)) for part in (tokens[0], tokens[2])]
        # (B, C, H, W) -> (B, C, a) -> (B, a, C)
        pooled = F.adaptive_avg_pool2d(of_map[0].permute(0, 3, 1, 2), self.dense_side).flatten(2).transpose(1, 2)
        # (B, T or a, C) -> (B, h, T or a, D)
        q, k, v, agents = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in (*tokens, pooled))
        to_agents, to_tokens = self._biases(height, width, q.dtype)
        gathered = F.scaled_dot_product_attention(agents, k, v, to_agents)
        # (B, h, T, D) -> (B, T, C)
        out = F.scaled_dot_product_attention(q, agents, gathered, to_tokens).transpose(1, 2).flatten(2)
        local = self.dwc(of_map[1]).flatten(1, 2)
        out = out + (F.pad(local, (0, 0, self.class_tokens, 0)) if self.class_tokens else local)
        return self.proj_drop(self.proj(out))

    def _biases(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """What is added to the scores of agents, (1, h, a, T), and of tokens, (1, h, T, a)."""
        # a version is that of what stands in the memory now: in-place changes count it up
        parameters = [parameter for name, parameter in self.named_parameters() if name.endswith("_bias")]
        is_constant = not (self.training or torch.is_grad_enabled() or torch.compiler.is_compiling())
        numbers = 2 * self.num_heads * self.dense_side**2 * height * width
        if not is_constant or numbers > CACHED_NUMBERS or any(x.is_inference() for x in parameters):
            return self._compute_biases(height, width, dtype)
        state = tuple((x.data_ptr(), x._version, x.device) for x in parameters)
        key = (height, width, dtype, state)
        if self._cache is None or self._cache[0] != key:
            self._cache = key, self._compute_biases(height, width, dtype)
        return self._cache[1]

    def _compute_biases(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        # (1, h, H, 1, a) + (1, h, 1, W, a) -> (h, a, H, W)
        lines = self.ah_bias + self.aw_bias, (self.ha_bias + self.wa_bias).permute(0, 1, 4, 2, 3)
        to_agents, to_tokens = (
            self._of_agents(_resize(grid, height, width) + _resize(line[0], height, width))
            for grid, line in zip((self.an_bias, self.na_bias), lines, strict=True)
        )
        # contiguous, for the copy is made once and read often
        return to_agents.unsqueeze(0).to(dtype), to_tokens.transpose(1, 2).contiguous().unsqueeze(0).to(dtype)

    def _of_agents(self, biases: Tensor) -> Tensor:
        """(h, a of num_agents, ...) -> (h, a of dense_agents, tokens), interpolated where the numbers differ."""
        biases = biases.flatten(2)
        if self.dense_side == self.side:
            return biases
        # (h, a, T) -> (h, T, side, side) -> (h, T, dense side, dense side) -> (h, a, T)
        grid = _resize(biases.transpose(1, 2).unflatten(2, (self.side, self.side)), self.dense_side, self.dense_side)
        return grid.flatten(2).transpose(1, 2)

    def train(self, mode: bool = True) -> "AgentAttention":
        """Switches to training or evaluation, and forgets the interpolated biases."""
        self._cache = None
        return super().train(mode)

    def extra_repr(self) -> str:
        """What the module's children do not show."""
        return f"num_heads={self.num_heads}, agents={self.dense_side**2}, map_size={self.map_size}"


@register_notrace_module
class ClassTokenAgentAttention(AgentAttention):
    """Agent attention over a class token and a map; agents are pooled from the map only.

    The class token has its own biases; the convolution passes it by. Arguments and source are `AgentAttention`'s.
    """

    class_tokens = 1

    def __init__(
        self,
        dim: int,
        num_heads: int,
        num_agents: int = 49,
        map_size: tuple[int, int] = (14, 14),
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
        dense_agents: int | None = None,
    ) -> None:
        super().__init__(dim, num_heads, num_agents, map_size, qkv_bias, proj_drop, dense_agents)
        self.ac_bias = _table(1, num_heads, num_agents, 1)
        self.ca_bias = _table(1, num_heads, 1, num_agents)

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:  # type: ignore[override]
        """Tokens (B, 1 + H * W, C), the class token first, and the size of the map -> (B, 1 + H * W, C)."""
        return self._mix(x, height, width)

    def _compute_biases(self, height: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        to_agents, to_tokens = super()._compute_biases(height, width, dtype)
        of_class = self._of_agents(self.ac_bias[0]).unsqueeze(0), self._of_agents(self.ca_bias[0].mT).mT.unsqueeze(0)
        return (
            torch.cat([of_class[0].to(dtype), to_agents], dim=3),
            torch.cat([of_class[1].to(dtype), to_tokens], dim=2),
        )


def _side_of(num_agents: int) -> int:
    side = math.isqrt(num_agents) if num_agents > 0 else 0
    if side < 1 or side**2 != num_agents:
        raise ValueError(f"agents are pooled to a square grid: their number must be 1, 4, 9, ..., got {num_agents}")
    return side


def _table(*shape: int) -> nn.Parameter:
    return nn.Parameter(trunc_normal_(torch.zeros(shape), std=0.02))


def _resize(grid: Tensor, height: int, width: int) -> Tensor:
    """(h, a, rows, columns) -> (h, a, height, width), bilinearly; itself where it has that size."""
    if grid.shape[2] == height and grid.shape[3] == width:
        return grid
    return F.interpolate(grid, (height, width), mode="bilinear")


def resize_line(line: Tensor, length: int, dim: int) -> Tensor:
    """Interpolates a line of position biases linearly, as the official code does for fine-tuning at another size.

    Args:
        line: biases, of any shape (1, h, ..).
        length: the new length of the axis `dim`.
        dim: the axis along which positions run.

    Returns:
        The line with the new length, itself where it has it.
    """
    if line.shape[dim] == length:
        return line
    # (.., L, ..) -> (rest, 1, L)
    moved = line.float().movedim(dim, -1)
    resized = F.interpolate(moved.reshape(-1, 1, line.shape[dim]), size=length, mode="linear")
    return resized.reshape(*moved.shape[:-1], length).movedim(-1, dim).to(line.dtype)
