"""SHViT as computed by the official code.

Maps are (B, C, H, W) and contiguous, norms are separate from their convolutions, and attention is two products of
flattened, transposed maps with a softmax between them. Rewritten after ysj9909/SHViT.

Shape legend: B batch, C channels, P part of them, D channels of a query, H W map, N = H * W.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.blocks import ConvNorm, ConvNormMlp, InvertedDownsample, SingleHeadBlock
from attnzoo.zoo_shvit import SHViT


def official(model: nn.Module) -> nn.Module:
    """Builds the official formulation on the parameters of one of our models, which are shared, not copied.

    Args:
        model: one of our SHViTs in evaluation mode, not fused, with pooling and a classifier.

    Returns:
        The network in evaluation mode; images (B, P, H, W) -> logits (B, num_classes).

    Raises:
        TypeError: the model is not a `SHViT`.
    """
    if not isinstance(model, SHViT):
        raise TypeError(f"model must be a SHViT, got {type(model).__name__}")
    return _Network(model).eval()


class _Network(nn.Module):
    # Any: attributes of our modules are not declared by nn.Module
    def __init__(self, model: Any) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for layer in model.stem:
            if isinstance(layer, ConvNorm):
                layers += [nn.ReLU()] if layers else []
                layers.append(_conv_norm(layer))
        for stage in model.stages:
            if not isinstance(stage.downsample, nn.Identity):
                layers += [_part(part) for part in stage.downsample]
            layers += [_part(block) for block in stage.blocks]
        self.layers = nn.Sequential(*layers)
        self.norm, self.fc = model.head.norm, model.head.fc

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(self.layers(x), 1).flatten(1)
        norm = self.norm
        x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        return self.fc(x)


class _Residual(nn.Module):
    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)


class _Attention(nn.Module):
    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.widths, self.parts = ours.widths, ours.parts
        self.scale = self.widths[0] ** -0.5
        self.norm, self.qkv = ours.norm, _conv_norm(ours.qkv)
        self.proj = nn.Sequential(nn.ReLU(), _conv_norm(ours.proj))

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        x, rest = torch.split(x, self.parts, dim=1)
        q, k, v = self.qkv(self.norm(x)).split(self.widths, dim=1)
        # each (B, D or P, N)
        q, k, v = q.flatten(2), k.flatten(2), v.flatten(2)
        weights = ((q.transpose(1, 2) @ k) * self.scale).softmax(dim=-1)
        # (B, P, N) -> (B, P, H, W)
        x = (v @ weights.transpose(1, 2)).reshape(batch, -1, height, width)
        return self.proj(torch.cat([x, rest], dim=1))


def _conv_norm(ours: ConvNorm) -> nn.Module:
    return nn.Sequential(ours.conv, ours.norm)


def _mlp(ours: ConvNormMlp) -> nn.Module:
    return nn.Sequential(_conv_norm(ours.conv1), nn.ReLU(), _conv_norm(ours.conv2))


def _part(ours: Any) -> nn.Module:
    """Converts a block, or the middle part of a downsampler."""
    if isinstance(ours, InvertedDownsample):
        widened = [_conv_norm(ours.conv1), nn.ReLU(), _conv_norm(ours.conv2), nn.ReLU()]
        return nn.Sequential(*widened, ours.se, _conv_norm(ours.conv3))
    assert isinstance(ours, SingleHeadBlock)
    branches = [_conv_norm(ours.conv.get_submodule("conv"))]  # type: ignore[arg-type]
    if ours.attn is not None:
        branches.append(_Attention(ours.attn))
    return nn.Sequential(*map(_Residual, [*branches, _mlp(ours.mlp)]))
