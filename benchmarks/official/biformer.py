"""BiFormer as computed by the official code.

Maps are (B, C, H, W) between blocks, and each block permutes them to (B, H, W, C) and back. Norms are separate from
their convolutions. A map is partitioned into regions before queries, keys and values are projected, and keys and values
of routed regions are gathered from a tensor expanded to one copy per region. `biformer_stl_nchw` stays (B, C, H, W)
throughout. Rewritten after rayleizhu/BiFormer.

Shape legend: B batch, C channels, H W map, h heads, D = C / h, P = Pr * Pc regions of R = rh * rw pixels, t regions on
a route.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.biformer import BiFormer
from attnzoo.blocks import BiLevelRoutingAttention, ChannelsLastBatchNorm2d, ConvNorm, ResidualConv


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation on the parameters of one of our models, which are shared, not copied.

    Args:
        model: one of our BiFormers in evaluation mode, not fused.

    Returns:
        The network in evaluation mode, which can be trained; images (B, P, H, W) -> logits (B, num_classes). Regions
        must divide every routed map: it pads nothing.

    Raises:
        TypeError: the model is not a `BiFormer`.
    """
    if not isinstance(model, BiFormer):
        raise TypeError(f"model must be a BiFormer, got {type(model).__name__}")
    return _Network(model).eval()


class _Network(nn.Module):
    # Any: attributes of our modules are not declared by nn.Module
    def __init__(self, model: Any) -> None:
        super().__init__()
        block = _MapBlock if model.layout == "stl_nchw" else _Block
        layers: list[nn.Module] = [_channels_first(model.stem)]
        for stage in model.stages:
            layers.append(_channels_first(stage.downsample))
            # the layout "stl" permutes once per stage, the default layout once per block
            blocks = [block(x) for x in stage.blocks]
            if block is _MapBlock:
                layers += blocks
            elif model.layout == "stl":
                layers.append(_Permuted(blocks))
            else:
                layers += [
                    nn.Sequential(_channels_first(ours.pos_embed), _Permuted([x]))
                    for ours, x in zip(stage.blocks, blocks, strict=True)
                ]
        self.layers = nn.Sequential(*layers, _channels_first(model.norm))
        self.head = model.head.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


class _Permuted(nn.Module):
    """Channels-last blocks in a channels-first network."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Residual(nn.Module):
    """x + conv(x): (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class _Block(nn.Module):
    """(B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.norm1, self.norm2, self.drop_path = ours.norm1, ours.norm2, ours.drop_path1
        self.attn = _Routed(ours.attn) if isinstance(ours.attn, BiLevelRoutingAttention) else _Dense(ours.attn)
        self.mlp = nn.Sequential(ours.mlp.fc1, nn.GELU(), ours.mlp.fc2)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


class _Routed(nn.Module):
    """(B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, ours: BiLevelRoutingAttention) -> None:
        super().__init__()
        self.heads, self.split, self.topk, self.scale = ours.num_heads, ours.regions, ours.topk, ours.scale
        self.qkv, self.wo, self.lepe = ours.qkv, ours.proj, _channels_first(ours.lepe)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        rows, columns = self.split
        regions, size = rows * columns, (height // rows, width // columns)
        # (B, Pr, rh, Pc, rw, C) -> (B, P, rh, rw, C)
        x = x.reshape(batch, rows, size[0], columns, size[1], channels).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(batch, regions, *size, channels)
        queries, keys_values = self.qkv(x).split((channels, 2 * channels), -1)
        chosen = self._route(queries.mean((2, 3)), keys_values[..., :channels].mean((2, 3)))
        lepe = self.lepe(self._map(keys_values[..., channels:]).permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)

        # (B, P, rh, rw, 2C) -> (B, P, P, R, 2C), expanded -> (B, P, t, R, 2C)
        keys_values = keys_values.reshape(batch, 1, regions, -1, 2 * channels).expand(-1, regions, -1, -1, -1)
        chosen = chosen[..., None, None].expand(-1, -1, -1, *keys_values.shape[3:])
        keys, values = keys_values.gather(2, chosen).split(channels, -1)
        # (B, P, .., R, C) -> (B * P, h, .. * R, D)
        queries, keys, values = (
            part.reshape(batch * regions, -1, self.heads, channels // self.heads).transpose(1, 2)
            for part in (queries, keys, values)
        )
        weights = ((queries * self.scale) @ keys.transpose(-2, -1)).softmax(-1)
        # (B * P, h, R, D) -> (B, P, rh, rw, C)
        attended = (weights @ values).transpose(1, 2).reshape(batch, regions, *size, channels)
        return self.wo(self._map(attended) + lepe)

    def _route(self, queries: Tensor, keys: Tensor) -> Tensor:
        scores = (queries.detach() * self.scale) @ keys.detach().transpose(1, 2)
        return scores.topk(self.topk, -1).indices

    def _map(self, x: Tensor) -> Tensor:
        """(B, P, rh, rw, C) -> (B, H, W, C)."""
        x = x.unflatten(1, self.split).permute(0, 1, 3, 2, 4, 5)
        return x.flatten(3, 4).flatten(1, 2)


class _Dense(nn.Module):
    """(B, H, W, C) -> (B, H, W, C)."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.heads = ours.num_heads
        self.qkv, self.proj, self.lepe = ours.qkv, ours.proj, _channels_first(ours.lepe)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        # (B, H, W, 3C) -> three of (B, h, H * W, D)
        qkv = self.qkv(x).reshape(batch, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        queries, keys, values = qkv.unbind(0)
        weights = ((queries @ keys.transpose(-2, -1)) * queries.shape[-1] ** -0.5).softmax(-1)
        attended = (weights @ values).transpose(1, 2).reshape(batch, height, width, channels)
        return self.proj(attended + self.lepe(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


class _MapBlock(nn.Module):
    """(B, C, H, W) -> (B, C, H, W): linear layers as 1x1 convolutions."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.norm1, self.norm2, self.drop_path = ours.norm1, ours.norm2, ours.drop_path1
        self.attn = _RoutedMap(ours.attn) if isinstance(ours.attn, BiLevelRoutingAttention) else _DenseMap(ours.attn)
        self.mlp = ours.mlp

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self._normed(self.norm1, x)))
        hidden = F.gelu(_pointwise(self.mlp.fc1, self._normed(self.norm2, x)))
        return x + self.drop_path(_pointwise(self.mlp.fc2, hidden))

    def _normed(self, norm: nn.Module, x: Tensor) -> Tensor:
        return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _RoutedMap(_Routed):
    """(B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = self.split
        size = x.shape[2] // rows, x.shape[3] // columns
        queries, keys, values = _pointwise(self.qkv, x).chunk(3, 1)
        # (B, C, H, W) -> (B, C, Pr, Pc) -> (B, P, C)
        means = (F.avg_pool2d(part.detach(), size).flatten(2).transpose(1, 2) for part in (queries, keys))
        # (B, P, t) -> (B, h, P, t)
        chosen = self._route(*means).unsqueeze(1).expand(-1, self.heads, -1, -1)
        lepe = self.lepe(values)
        queries, keys, values = (self._by_region(part, size) for part in (queries, keys, values))
        keys, values = (self._gathered(part, chosen) for part in (keys, values))
        weights = ((queries * self.scale) @ keys.transpose(-2, -1)).softmax(-1)
        # (B, h, P, R, D) -> (B, h, D, Pr, rh, Pc, rw) -> (B, C, H, W)
        attended = (weights @ values).unflatten(3, size).unflatten(2, self.split).permute(0, 1, 6, 2, 4, 3, 5)
        return _pointwise(self.wo, attended.reshape(x.shape) + lepe)

    def _by_region(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, C, H, W) -> (B, h, P, R, D)."""
        x = x.unflatten(3, (self.split[1], size[1])).unflatten(2, (self.split[0], size[0]))
        return x.unflatten(1, (self.heads, -1)).permute(0, 1, 3, 5, 4, 6, 2).flatten(4, 5).flatten(2, 3)

    def _gathered(self, x: Tensor, chosen: Tensor) -> Tensor:
        """(B, h, P, R, D) -> (B, h, P, t * R, D)."""
        expanded = x.unsqueeze(2).expand(-1, -1, x.shape[2], -1, -1, -1)
        return expanded.gather(3, chosen[..., None, None].expand(-1, -1, -1, -1, *x.shape[3:])).flatten(3, 4)


class _DenseMap(_Dense):
    """(B, C, H, W) -> (B, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        queries, keys, values = _pointwise(self.qkv, x).chunk(3, 1)
        lepe = self.lepe(values)
        # (B, C, H, W) -> (B, h, D, H * W)
        queries, keys, values = (part.flatten(2).unflatten(1, (self.heads, -1)) for part in (queries, keys, values))
        weights = (queries.transpose(-2, -1) @ keys * queries.shape[2] ** -0.5).softmax(-1)
        attended = (weights @ values.transpose(-2, -1)).transpose(-2, -1).reshape(x.shape)
        return _pointwise(self.proj, attended + lepe)


def _pointwise(layer: nn.Linear, x: Tensor) -> Tensor:
    """A linear layer as a 1x1 convolution: (B, C, H, W) -> (B, C', H, W)."""
    return F.conv2d(x, layer.weight[..., None, None], layer.bias)


def _channels_first(module: nn.Module) -> nn.Module:
    """Converts our layers between blocks to channels-first maps (B, C, H, W)."""
    if isinstance(module, ResidualConv):
        return _Residual(_channels_first(module.conv))
    if isinstance(module, ConvNorm):
        return nn.Sequential(_channels_first(module.conv), module.norm)
    if isinstance(module, nn.Conv2d):
        with torch.device("meta"):
            conv = nn.Conv2d(
                module.in_channels,
                module.out_channels,
                module.kernel_size,  # type: ignore[arg-type]
                module.stride,  # type: ignore[arg-type]
                module.padding,  # type: ignore[arg-type]
                groups=module.groups,
            )
        conv.weight, conv.bias = module.weight, module.bias
        return conv
    if isinstance(module, ChannelsLastBatchNorm2d):
        return module.norm
    layers = [_channels_first(child) for child in module.children()]
    return nn.Sequential(*layers) if layers else module
