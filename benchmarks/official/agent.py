"""Agent Attention as in the official code: explicit softmax, biases interpolated at every call, maps as tokens.

Shape legend: B batch, H W map, N tokens, C channels, h heads, D = C / h, a agents.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.blocks import (
    AgentAttention,
    CrossShapedAttention,
    WindowAttention,
)

from .swapping import swapped


def official(model: nn.Module) -> nn.Module:
    """Copies one of our models, and replaces its attention with the official formulation.

    Args:
        model: Agent-DeiT, -PVT, -Swin or -CSWin; it is not changed.
    """
    return swapped(
        model,
        {
            AgentAttention: _Agents,
            WindowAttention: _ShiftedWindows,
            CrossShapedAttention: _Stripes,
        },
    )


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) -> (B, h, N, D)."""
    return x.reshape(x.shape[0], x.shape[1], heads, -1).permute(0, 2, 1, 3)


class _Agents(nn.Module):
    """Agent attention over tokens, with the layer's class tokens first."""

    def __init__(self, layer: AgentAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        return self.forward_tokens(x.reshape(batch, -1, channels), height, width).reshape(x.shape)

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        layer, first = self.layer, self.layer.class_tokens
        batch, tokens, channels = x.shape
        heads, biases = layer.num_heads, layer.biases
        side = biases.side
        agents, scale = side**2, (channels // heads) ** -0.5
        # (B, N, 3C) -> (3, B, N, C)
        q, k, v = layer.qkv(x).reshape(batch, tokens, 3, channels).permute(2, 0, 1, 3)
        queries = q[:, first:].reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        pooled = F.adaptive_avg_pool2d(queries, (side, side)).reshape(batch, channels, -1).permute(0, 2, 1)
        q, k, v, pooled = (_split_heads(part, heads) for part in (q, k, v, pooled))

        grid = F.interpolate(biases.an_bias, (height, width), mode="bilinear").reshape(1, heads, agents, -1)
        lines = (biases.ah_bias + biases.aw_bias).reshape(1, heads, agents, -1)
        bias = grid.repeat(batch, 1, 1, 1) + lines.repeat(batch, 1, 1, 1)
        if first:
            bias = torch.cat([biases.get_parameter("ac_bias").repeat(batch, 1, 1, 1), bias], dim=-1)
        gathered = ((pooled * scale) @ k.transpose(-2, -1) + bias).softmax(-1) @ v

        grid = F.interpolate(biases.na_bias, (height, width), mode="bilinear").reshape(1, heads, agents, -1)
        lines = (biases.ha_bias + biases.wa_bias).reshape(1, heads, -1, agents)
        bias = grid.permute(0, 1, 3, 2).repeat(batch, 1, 1, 1) + lines.repeat(batch, 1, 1, 1)
        if first:
            bias = torch.cat([biases.get_parameter("ca_bias").repeat(batch, 1, 1, 1), bias], dim=-2)
        out = ((q * scale) @ pooled.transpose(-2, -1) + bias).softmax(-1) @ gathered

        out = out.transpose(1, 2).reshape(batch, tokens, channels)
        values = v[:, :, first:].transpose(1, 2).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        local = _convolved(layer.dwc, values).permute(0, 2, 3, 1).reshape(batch, tokens - first, channels)
        out = torch.cat([out[:, :first], out[:, first:] + local], 1) if first else out + local
        return layer.proj(out)


class _ShiftedWindows(nn.Module):
    """Swin's block: roll, partition, attention under bias and mask, reverse the partition, roll back."""

    mask: Tensor | None

    def __init__(self, layer: WindowAttention) -> None:
        super().__init__()
        self.layer = layer
        # (w * w, w * w), computed once, like the official index
        places = torch.cartesian_prod(torch.arange(layer.window_size), torch.arange(layer.window_size))
        offsets = places[None] - places[:, None] + layer.window_size - 1
        self.index: Tensor
        self.register_buffer("index", offsets[..., 0] * (2 * layer.window_size - 1) + offsets[..., 1])
        self.masks: dict[tuple[int, int], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        layer, window = self.layer, self.layer.window_size
        batch, height, width, channels = x.shape
        shift = window // 2 if layer.shifted and max(height, width) > window else 0
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))
        cut = _cut(x, window, window)
        q, k, v = layer.qkv(cut).reshape(*cut.shape[:2], 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        assert layer.rpb is not None
        bias = layer.rpb.flatten(1)[:, self.index.flatten()].reshape(-1, *self.index.shape)
        scores = scores + bias.unsqueeze(0)
        if shift:
            mask = self._mask(height, width, shift)
            windows = len(mask)
            scores = scores.reshape(batch, windows, *scores.shape[1:]) + mask[:, None]
            scores = scores.flatten(0, 1)
        out = layer.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(cut.shape))
        out = _join(out, window, window, (batch, height, width, channels))
        return torch.roll(out, (shift, shift), (1, 2)) if shift else out

    def _mask(self, height: int, width: int, shift: int) -> Tensor:
        """The mask (windows, w * w, w * w): -100 between tokens from different sides of the map."""
        if (height, width) not in self.masks:
            window = self.layer.window_size
            sides = torch.zeros(1, height, width, 1)
            cuts = slice(0, -window), slice(-window, -shift), slice(-shift, None)
            for i, (rows, columns) in enumerate((rows, columns) for rows in cuts for columns in cuts):
                sides[:, rows, columns] = i
            of_windows = _cut(sides, window, window)[..., 0]
            self.masks[height, width] = (of_windows[:, None] != of_windows[..., None]) * -100.0
        return self.masks[height, width]


class _Stripes(nn.Module):
    """CSWin's block: one branch per direction, each with its own partition and positional convolution."""

    def __init__(self, layer: CrossShapedAttention) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        batch, height, width, channels = x.shape
        stripes = layer.stripe_width or height, layer.stripe_width or width
        shapes = [(height, stripes[1]), (stripes[0], width)]
        qkv = layer.qkv(x).reshape(batch, -1, 3, channels).permute(2, 0, 1, 3)
        count = len(layer.dwc)
        own = channels // count
        branches = [
            self._branch(qkv[..., i * own : (i + 1) * own], dwc, shape, (batch, height, width, own))
            for i, (dwc, shape) in enumerate(zip(layer.dwc, shapes, strict=False))
        ]
        return layer.proj(torch.cat(branches, dim=-1))

    def _branch(self, qkv: Tensor, dwc: nn.Module, shape: tuple[int, int], size: tuple[int, int, int, int]) -> Tensor:
        heads = self.layer.num_heads // len(self.layer.dwc)
        # through channels-first maps, as in the official code
        q, k, v = (part.transpose(1, 2).contiguous().reshape(size[0], size[3], *size[1:3]) for part in qkv)
        q, k = (_split_heads(_cut(part.permute(0, 2, 3, 1), *shape), heads) for part in (q, k))
        cut = _cut(v.permute(0, 2, 3, 1), *shape)
        v = _split_heads(cut, heads)
        values = cut.transpose(1, 2).reshape(-1, size[3], *shape).contiguous()
        local = _split_heads(_convolved(dwc, values).flatten(2).transpose(1, 2).contiguous(), heads)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        out = scores.softmax(-1) @ v + local
        return _join(out.transpose(1, 2).reshape(cut.shape), *shape, size)


def _convolved(layer: nn.Module, x: Tensor) -> Tensor:
    """Applies a depthwise convolution to a channels-first map."""
    assert isinstance(layer, nn.Conv2d)
    return F.conv2d(x.contiguous(), layer.weight, layer.bias, padding=layer.padding, groups=layer.groups)


def _cut(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, H, W, C) -> (windows, rows * columns, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // rows, rows, width // columns, columns, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().reshape(-1, rows * columns, channels)


def _join(x: Tensor, rows: int, columns: int, size: tuple[int, int, int, int]) -> Tensor:
    """(windows, rows * columns, C) -> (B, H, W, C)."""
    batch, height, width, channels = size
    x = x.reshape(batch, height // rows, width // columns, rows, columns, channels)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().reshape(batch, height, width, channels)
