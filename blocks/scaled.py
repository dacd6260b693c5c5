"""MLPs between a batch norm and a layer scale, which fuse into plain linear layers.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
import torch
from timm.layers import LayerScale, register_notrace_module
from torch import Tensor, nn

from .convolution import NormLinear, depthwise
from .linear import Linear, Mlp


class ScaledLinear(nn.Module):
    """A linear layer and a learned scale per channel: (.., dim) -> (.., out_dim); `fuse` makes one layer of them.

    Args:
        dim: channels.
        out_dim: channels of the result.
        layer_scale: initial value of the scale.

    Source: Going deeper with Image Transformers, arXiv 2103.17239, section 2, for the scale.
    """

    def __init__(self, dim: int, out_dim: int, layer_scale: float) -> None:
        super().__init__()
        self.fc = Linear(dim, out_dim)
        self.scale = LayerScale(out_dim, init_values=layer_scale)

    def forward(self, x: Tensor) -> Tensor:
        """(.., dim) -> (.., out_dim)."""
        return self.scale(self.fc(x))

    @torch.no_grad()
    def fuse(self) -> Linear:
        """One linear layer that computes the same."""
        self.fc.weight.mul_(self.scale.gamma.unsqueeze(1))
        self.fc.bias.mul_(self.scale.gamma)
        return self.fc.fuse()


@register_notrace_module  # it runs another way where gradients are wanted
class ScaledMlp(Mlp):
    """Batch norm, linear, depthwise convolution, GELU, linear, layer scale: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        hidden_dim: channels in between.
        layer_scale: initial value of the scale.
        norm: whether there is a batch norm.
        kernel_size: of the convolution, odd; None for no convolution.

    Source: Visual Attention Network, arXiv 2202.09741, section 3.2, with the convolution of Pyramid Vision
    Transformer v2, arXiv 2106.13797, section 3.3; without it: SwiftFormer, arXiv 2303.15446, section 3.3.
    """

    def __init__(
        self, dim: int, hidden_dim: int, layer_scale: float, norm: bool = True, kernel_size: int | None = None
    ) -> None:
        super().__init__(dim, hidden_dim)
        if norm:
            self.fc1 = NormLinear(dim, hidden_dim)
        self.conv = nn.Identity() if kernel_size is None else depthwise(hidden_dim, kernel_size)
        self.fc2 = ScaledLinear(hidden_dim, dim, layer_scale)

    def _expand(self, x: Tensor) -> Tensor:
        return self.conv(self.fc1(x))
