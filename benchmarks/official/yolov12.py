"""YOLOv12 as computed by the official code: channel-first maps and attention with its softmax written out.

Rewritten from the description of the layers, not from the code, which is AGPL 3.0.

Shape legend: B batch, C channels, H W map, N positions of an area, h heads, D = C / h.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attnzoo.blocks import AreaAttention, ConvNorm, ConvNormAct, CrossStage, LayerAggregation, ResidualConvs
from attnzoo.yolov12 import YOLOv12


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation with the weights of one of our classifiers.

    Args:
        model: the network in evaluation mode, not fused.

    Returns:
        The network in evaluation mode; images (B, P, H, W) -> logits (B, num_classes).

    Raises:
        TypeError: the model is not a `YOLOv12`.
    """
    if not isinstance(model, YOLOv12):
        raise TypeError(f"model must be a YOLOv12, got {type(model).__name__}")
    stem = model.stem[0]
    layers: list[nn.Module] = [_Conv(layer, nn.SiLU()) for layer in (stem[0], stem[2])]
    for stage in model.stages:
        layers += [] if isinstance(stage.downsample, nn.Identity) else [_rendered(stage.downsample)]
        layers += map(_rendered, stage.blocks)
    layers += [_rendered(model.norm), nn.AdaptiveAvgPool2d(1), nn.Flatten(), model.head.fc]
    return nn.Sequential(*layers).eval()


def _rendered(layer: nn.Module) -> nn.Module:
    if isinstance(layer, ConvNormAct):
        return _Conv(layer, nn.SiLU())
    if isinstance(layer, ConvNorm):
        return _Conv(layer, nn.Identity())
    if isinstance(layer, ResidualConvs):
        return _Residual(nn.Sequential(_rendered(layer.conv1), _rendered(layer.conv2)))
    if isinstance(layer, CrossStage):
        return _CrossStage(layer)
    if isinstance(layer, LayerAggregation):
        return _Aggregation(layer)
    # two transformer blocks of area attention
    blocks = [(_Attention(block.attn), nn.Sequential(*map(_rendered, block.mlp))) for block in layer]
    return nn.Sequential(*(_Residual(branch) for branches in blocks for branch in branches))


class _Conv(nn.Module):
    def __init__(self, layer: ConvNorm, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = layer.conv, layer.norm, act

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.norm(self.conv(x)))


class _Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class _CrossStage(nn.Module):
    def __init__(self, layer: CrossStage) -> None:
        super().__init__()
        self.conv1, self.conv2, self.conv3 = map(_rendered, (layer.conv1, layer.conv2, layer.conv3))
        self.blocks = nn.Sequential(*map(_rendered, layer.blocks))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv3(torch.cat([self.blocks(self.conv1(x)), self.conv2(x)], 1))


class _Aggregation(nn.Module):
    def __init__(self, layer: LayerAggregation) -> None:
        super().__init__()
        self.conv1, self.conv2 = _rendered(layer.conv1), _rendered(layer.conv2)
        self.layers = nn.ModuleList(map(_rendered, layer.layers))
        self.width = layer.width
        self.gamma = None if layer.scale is None else layer.scale.gamma

    def forward(self, x: Tensor) -> Tensor:
        outputs = list(self.conv1(x).split(self.width, 1))
        for layer in self.layers:
            outputs.append(layer(outputs[-1]))
        out = self.conv2(torch.cat(outputs, 1))
        return out if self.gamma is None else x + self.gamma.view(-1, 1, 1) * out


class _Attention(nn.Module):
    def __init__(self, layer: AreaAttention) -> None:
        super().__init__()
        self.qk, self.v, self.local, self.proj = map(_rendered, (layer.qk, layer.v, layer.local, layer.proj))
        self.num_heads, self.head_dim, self.areas = layer.num_heads, layer.head_dim, layer.areas

    def forward(self, x: Tensor) -> Tensor:
        batch, dim, height, width = x.shape
        count = height * width // self.areas
        v = self.v(x)
        # (B, ., H, W) -> (B * a, N, .)
        q, k = self.qk(x).flatten(2).transpose(1, 2).reshape(batch * self.areas, count, 2 * dim).split(dim, 2)
        values = v.flatten(2).transpose(1, 2).reshape(batch * self.areas, count, dim)
        q, k, values = map(self._heads, (q, k, values))
        scores = (q.transpose(2, 3) @ k) * self.head_dim**-0.5
        weights = torch.exp(scores - scores.max(3, keepdim=True).values)
        weights = weights / weights.sum(3, keepdim=True)
        out = (values @ weights.transpose(2, 3)).permute(0, 3, 1, 2)
        out = out.reshape(batch, height, width, dim).permute(0, 3, 1, 2)
        return self.proj(out + self.local(v))

    def _heads(self, x: Tensor) -> Tensor:
        """(B * a, N, C) -> (B * a, h, D, N)."""
        return x.transpose(1, 2).reshape(x.shape[0], self.num_heads, self.head_dim, x.shape[1])
