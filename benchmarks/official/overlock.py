"""OverLoCK as in the official code: channels-first maps, separate branches of large kernels.

Two things differ, both in favour of this formulation on a CPU. The official sum over neighborhoods is a CUDA operator;
here the windows are gathered, one row of keys at a time. Channel scales are 1x1 convolutions with one group per channel
in the official code, which a CPU computes group by group; here they are products.

Shape legend: B batch, C channels, H W map, g heads, d width of a head, k side of a kernel.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.blocks import (
    ContMix,
    ConvNorm,
    DilatedReparamConv,
    FocusBlock,
    NormLinear,
    ReparamConvBlock,
    ResidualConv,
    ResponseMlp,
    SqueezeExcite,
)


def official(model: nn.Module, merged: bool = False) -> nn.Module:
    """Builds the official formulation with the same weights.

    Args:
        model: an `attnzoo.overlock.OverLoCK` in evaluation mode, not fused; it is not changed.
        merged: whether to fold the branches of large kernels, as in the re-parameterised official models.

    Returns:
        A module that maps images (B, 3, H, W) to the same logits.

    Raises:
        ValueError: the model is in training mode.
    """
    if model.training:
        raise ValueError("model must be in evaluation mode: call .eval() first")
    return _Network(copy.deepcopy(model), merged).eval()


class _Network(nn.Module):
    def __init__(self, model: Any, merged: bool) -> None:
        super().__init__()
        self.stem = nn.Sequential(*(_pair(layer) if isinstance(layer, ConvNorm) else layer for layer in model.stem))
        first, second, third, fourth = model.stages
        self.blocks1 = _blocks(first.blocks, merged)
        self.down2, self.blocks2 = _pair(second.downsample), _blocks(second.blocks, merged)
        self.down3, self.base = _pair(third.downsample), _blocks(third.base, merged)
        self.down4, self.overview = _pair(third.overview[0]), _blocks(third.overview[1:], merged)
        self.context = _pointwise(third.context)
        self.focus3, self.focus4 = _blocks(third.blocks, merged), _blocks(fourth.blocks, merged)
        self.down_map, self.down_context = _pair(fourth.downsample.map), _pair(fourth.downsample.context)
        self.projection = nn.Sequential(_pair(model.norm[0]), nn.SiLU(), nn.AdaptiveAvgPool2d(1))
        self.classifier = _pointwise(model.head.fc)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks2(self.down2(self.blocks1(self.stem(x))))
        x = self.base(self.down3(x))
        context = self.context(self.overview(self.down4(x)))
        prior = F.interpolate(context, size=x.shape[2:], mode="bilinear", align_corners=False)
        h = prior
        for block in self.focus3:
            x, h = block(x, h, prior)
        x, h = self.down_map(x), self.down_context(h)
        for block in self.focus4:
            x, h = block(x, h, context)
        return self.classifier(self.projection(torch.cat([x, h], 1))).flatten(1)


class _StaticBlock(nn.Module):
    def __init__(self, block: ReparamConvBlock, merged: bool) -> None:
        super().__init__()
        self.conv = _Residual(block.conv)
        self.branch = nn.Sequential(
            _ChannelNorm(block.norm), _large(block.mixer, merged), _SqueezeExcite(block.se), *_mlp(block.mlp)
        )
        self.scale = _Scale(block.ls)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.scale(x) + self.branch(x)


class _FocusBlock(nn.Module):
    def __init__(self, block: FocusBlock, merged: bool) -> None:
        super().__init__()
        self.widths = [block.dim, len(block.norm1.weight) - block.dim]
        self.refreshed = block.refreshed
        self.context_scale, self.prior_scale = _Scale(block.context_scale), _Scale(block.prior_scale)
        self.conv1, self.norm1 = _Residual(block.conv1), _ChannelNorm(block.norm1)
        self.mixer = _ContMix(block.mixer, merged)
        self.scale1, self.scale2 = _Scale(block.ls1), _Scale(block.ls2)
        self.conv2, self.norm2 = _Residual(block.conv2), _ChannelNorm(block.norm2)
        self.mlp = _mlp(block.mlp)

    def forward(self, x: Tensor, h: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        if self.refreshed:
            h = self.context_scale(h) + self.prior_scale(prior)
        both = self.conv1(torch.cat([x, h], 1))
        both = self.conv2(self.scale1(both) + self.mixer(self.norm1(both), self.widths))
        both = self.scale2(both) + self.mlp(self.norm2(both))
        x, h = both.split(self.widths, 1)
        return x, h


class _ContMix(nn.Module):
    def __init__(self, mixer: ContMix, merged: bool) -> None:
        super().__init__()
        self.heads, self.sides = mixer.num_heads, (mixer.small_kernel_size, mixer.kernel_size)
        conv, act, linear, norm = mixer.fusion
        self.fusion = nn.Sequential(_pair(conv), act, _pointwise(linear), _ResponseNorm(norm))
        self.gate = nn.Sequential(_pair(mixer.gate[0]), nn.SiLU())
        self.static = _large(mixer.static, merged)
        self.query, self.key = _pair(mixer.query), _pair(mixer.key)
        self.weights = _pointwise(mixer.weights)
        self.tables = nn.ParameterList([mixer.rpb1, mixer.rpb2])
        self.dynamic = _pair(mixer.dynamic_proj)
        self.se = _SqueezeExcite(mixer.se)
        self.proj = nn.Sequential(*_norm_first(mixer.proj))

    def forward(self, x: Tensor, widths: list[int]) -> Tensor:
        size = x.shape[2:]
        values = self.fusion(x)
        gate, static = self.gate(values), self.static(values)
        side = self.sides[1]
        H, W = size
        if min(size) < side:
            H, W = (side, int(side / H * W)) if H < W else (int(side / W * H), side)
            values, x = (F.interpolate(y, size=(H, W), mode="bilinear", align_corners=False) for y in (values, x))
        query, key = x.split(widths, 1)
        query = self.query(query) * (widths[0] / self.heads) ** -0.5
        key = self.key(F.adaptive_avg_pool2d(key, 7))
        # (B, C, HW) -> (B, g, d, HW)
        query, key = (y.flatten(2).unflatten(1, (self.heads, -1)) for y in (query, key))
        affinity = torch.einsum("bgcn,bgcl->bgnl", query, key)
        weights = self.weights(affinity.permute(0, 3, 1, 2).contiguous())
        # (B, places, g, HW) -> (B, g, H, W, places)
        weights = weights.permute(0, 2, 3, 1).unflatten(2, (H, W))
        sums = []
        for part, half, table, k in zip(
            weights.split([k * k for k in self.sides], -1), values.chunk(2, 1), self.tables, self.sides, strict=True
        ):
            sums.append(_neighborhood_sum((part + _bias(table, H, W, k)).softmax(-1), half, k))
        mixed = torch.cat(sums, 1)
        if tuple(size) != (H, W):
            mixed = F.adaptive_avg_pool2d(mixed, (size[0], size[1]))
        return self.proj(gate * self.se(self.dynamic(mixed) + static))


def _window_starts(length: int, side: int) -> Tensor:
    """First key of every position's window, shifted inward at the borders."""
    return (torch.arange(length) - side // 2).clamp(0, length - side)


def _bias(table: Tensor, height: int, width: int, side: int) -> Tensor:
    """(g, 2k-1, 2k-1) -> (g, H, W, k * k)."""
    window = torch.arange(side)
    rows, columns = (
        _window_starts(length, side)[:, None] + window - torch.arange(length)[:, None] + side - 1
        for length in (height, width)
    )
    return table[:, rows[:, None, :, None], columns[None, :, None, :]].flatten(3)


def _neighborhood_sum(weights: Tensor, values: Tensor, side: int) -> Tensor:
    """(B, g, H, W, k * k), (B, g * d, H, W) -> (B, g * d, H, W)."""
    heads, (height, width) = weights.shape[1], values.shape[2:]
    values = values.unflatten(1, (heads, -1))
    rows = _window_starts(height, side)
    columns = _window_starts(width, side)[:, None] + torch.arange(side)
    weights = weights.unflatten(-1, (side, side))
    # (B, g, d, H, W, k): the columns of the windows
    values = values[..., columns]
    total = torch.zeros((), device=values.device)
    for row in range(side):
        keys = values.index_select(3, rows + row)
        total = total + torch.einsum("bghwk,bgchwk->bgchw", weights[..., row, :], keys)
    return total.flatten(1, 2)


class _ChannelNorm(nn.Module):
    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


class _Residual(nn.Module):
    def __init__(self, layer: ResidualConv) -> None:
        super().__init__()
        self.conv = layer.conv

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class _Scale(nn.Module):
    def __init__(self, scale: Any) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.scale, nn.Identity):
            return x
        return x * self.scale.weight[:, None, None] + self.scale.bias[:, None, None]


class _ResponseNorm(nn.Module):
    def __init__(self, norm: Any) -> None:
        super().__init__()
        self.gamma, self.beta = (nn.Parameter(x[:, None, None].clone()) for x in (norm.gamma, norm.beta))

    def forward(self, x: Tensor) -> Tensor:
        norms = torch.norm(x, p=2, dim=(-1, -2), keepdim=True)
        return (self.gamma * (norms / (norms.mean(1, keepdim=True) + 1e-6)) + 1) * x + self.beta


class _SqueezeExcite(nn.Module):
    def __init__(self, se: SqueezeExcite) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), _pointwise(se.fc1), nn.GELU(), _pointwise(se.fc2), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.proj(x)


class _Branches(nn.Module):
    def __init__(self, layer: DilatedReparamConv) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_pair(layer.large), *map(_pair, layer.dilated.values())])

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


def _large(layer: DilatedReparamConv, merged: bool) -> nn.Module:
    if merged:
        return _pair(layer.merge())
    return nn.Sequential(_Branches(layer), layer.norm)


def _mlp(mlp: ResponseMlp) -> nn.Sequential:
    return nn.Sequential(
        _pointwise(mlp.fc1), nn.GELU(), _Residual(mlp.conv), _ResponseNorm(mlp.norm), _pointwise(mlp.fc2)
    )


def _blocks(blocks: Any, merged: bool) -> nn.Sequential:
    kinds = {ReparamConvBlock: _StaticBlock, FocusBlock: _FocusBlock}
    return nn.Sequential(*(kinds[type(block)](block, merged) for block in blocks))


def _pair(layer: Any) -> nn.Sequential:
    return nn.Sequential(layer.conv, layer.norm)


def _norm_first(layer: NormLinear) -> tuple[nn.Module, nn.Module]:
    return layer.norm, _pointwise(layer.fc)


@torch.no_grad()
def _pointwise(linear: Any) -> nn.Conv2d:
    """A linear layer as a 1x1 convolution."""
    conv: Any = nn.Conv2d(linear.in_features, linear.out_features, 1).to(linear.weight)
    conv.weight.copy_(linear.weight[:, :, None, None])
    conv.bias.copy_(linear.bias)
    return conv
