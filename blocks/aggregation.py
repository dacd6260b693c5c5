"""Layer aggregation: a chain of layers whose outputs are all read by one 1x1 convolution.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence

import torch
from timm.layers import LayerScale
from torch import Tensor, nn

from .convolution import ConvNormAct


class LayerAggregation(nn.Module):
    """1x1 convolution, a chain of layers, 1x1 convolution of all outputs: (B, H, W, C) -> (B, H, W, out_dim).

    Args:
        dim: channels C.
        out_dim: output channels, the same as C with a shortcut.
        layers: the layers, each of which keeps the shape of its map.
        width: channels of the layers.
        skipped: further channels of the first convolution, which only the last one reads.
        layer_scale: initial value of the scale of the output, which is added to the input; None for no shortcut.

    Source: ELAN, arXiv 2211.04800, section 3; with a scaled shortcut: YOLOv12, arXiv 2502.12524, section 3.3.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        layers: Sequence[nn.Module],
        width: int,
        skipped: int = 0,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.width = width
        self.conv1 = ConvNormAct(dim, skipped + width)
        self.layers = nn.ModuleList(layers)
        self.conv2 = ConvNormAct(skipped + width * (1 + len(layers)), out_dim)
        self.scale = None if layer_scale is None else LayerScale(out_dim, init_values=layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, out_dim)."""
        outputs = [self.conv1(x)]
        last = outputs[0][:, :, :, -self.width :]
        for layer in self.layers:
            last = layer(last)
            outputs.append(last)
        out = self.conv2(torch.cat(outputs, 3))
        return out if self.scale is None else x + self.scale(out)


class CrossStage(nn.Module):
    """Two residual blocks beside a 1x1 convolution, joined by another: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        width: channels of each branch.
        depth: residual blocks.

    Source: CSPNet, arXiv 1911.11929, section 3.1.
    """

    def __init__(self, dim: int, width: int, depth: int = 2) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(dim, width)
        self.conv2 = ConvNormAct(dim, width)
        self.blocks = nn.Sequential(*(ResidualConvs(width, width) for _ in range(depth)))
        self.conv3 = ConvNormAct(2 * width, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return self.conv3(torch.cat([self.blocks(self.conv1(x)), self.conv2(x)], 3))


class ResidualConvs(nn.Module):
    """x + two 3x3 convolutions of x, each with batch norm and SiLU: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        hidden_dim: channels between the convolutions.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(dim, hidden_dim, 3)
        self.conv2 = ConvNormAct(hidden_dim, dim, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return x + self.conv2(self.conv1(x))
