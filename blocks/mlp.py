"""MLPs: plain, with a convolution, with a gate, and with norms and scales that fold into linear layers.

Shape legend: B batch, H W map, C channels, T tokens: 1 + H * W.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from typing import Final

import torch
import torch.nn.functional as F
from timm.layers import LayerScale, register_notrace_module
from torch import Tensor, nn

from .convolution import ConvNorm, NormLinear, ResidualConv, channels_last_conv, depthwise
from .cpu import linear, pack, recomputed
from .norm import GlobalResponseNorm
from .shortcuts import is_observed, is_plain_cpu, is_unmodified


@register_notrace_module  # takes another path where gradients are enabled
class Mlp(nn.Module):
    """Linear, GELU, linear: (.., dim) -> (.., dim).

    In training the output of GELU is recomputed in the backward pass instead of stored, because it is large and cheap
    to compute.

    Args:
        dim: input and output channels.
        hidden_dim: hidden channels.
        drop: dropout rate after GELU and at the end.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1: nn.Module = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2: nn.Module = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(.., dim) -> (.., dim)."""
        x = self._expand(x)
        if torch.jit.is_scripting():
            return self._activate_and_contract(x)
        return self._lean(x)

    # the layers before and after GELU
    def _expand(self, x: Tensor) -> Tensor:
        return linear(self.fc1, x)

    def _contract(self, x: Tensor) -> Tensor:
        return self.drop(linear(self.fc2, self.drop(x)))

    def _activate_and_contract(self, x: Tensor) -> Tensor:
        return self._contract(self.act(x))

    @torch.jit.unused
    def _lean(self, x: Tensor) -> Tensor:
        if is_observed(*self.modules()):
            return self._activate_and_contract(x)
        if not torch.is_grad_enabled() and is_plain_cpu(x) and self._owns_its_hidden_layer():
            # in place: no second map of this size is allocated
            return self._contract(torch.ops.aten.gelu_(x))
        return recomputed(self._activate_and_contract, x, is_random=self.drop.p > 0)

    @torch.jit.unused
    def _owns_its_hidden_layer(self) -> bool:
        """Returns whether nobody else reads the input of GELU, and GELU was not replaced."""
        first = self.fc1.fc if isinstance(self.fc1, NormLinear) else self.fc1
        return is_unmodified(first, nn.Linear) and type(self.act) is nn.GELU and self.act.approximate == "none"


@register_notrace_module  # takes another path where gradients are enabled
class LocalMlp(Mlp):
    """Linear, 3x3 depthwise convolution, GELU, linear: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        hidden_dim: hidden channels.
        drop: dropout rate before the last linear layer and at the end.
        residual: whether the convolution comes after GELU and has a shortcut.

    Source: PVT v2, arXiv 2106.13797, section 3.2; residual: RALA, arXiv 2411.07635, official code.
    """

    residual: Final[bool]

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0, residual: bool = False) -> None:
        super().__init__(dim, hidden_dim, drop)
        self.residual = residual
        self.conv: nn.Module = ResidualConv(hidden_dim) if residual else depthwise(hidden_dim, 3)

    def _expand(self, x: Tensor) -> Tensor:
        x = linear(self.fc1, x)
        if self.residual:
            return x
        return channels_last_conv(self.conv, x)

    def _contract(self, x: Tensor) -> Tensor:
        if self.residual:
            x = self.conv(x)
        return self.drop(linear(self.fc2, self.drop(x)))


@register_notrace_module  # takes another path where gradients are enabled
class GatedMlp(nn.Module):
    """Linear of values * GELU(gate), both linear: (.., dim) -> (.., dim).

    Args:
        dim: input and output channels.
        hidden_dim: channels of values and gate, each.
        bias: whether the last linear layer has a bias.

    Source: GLU Variants Improve Transformer, arXiv 2002.05202, section 2.
    """

    def __init__(self, dim: int, hidden_dim: int, bias: bool = True) -> None:
        super().__init__()
        # two layers: the halves of one layer's output would be strided
        self.value = nn.Linear(dim, hidden_dim)
        self.gate = nn.Linear(dim, hidden_dim)
        self.proj = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(.., dim) -> (.., dim)."""
        gate, value = linear(self.gate, x), linear(self.value, x)
        if is_plain_cpu(gate) and not torch.is_grad_enabled():
            return linear(self.proj, self._gated_in_place(gate, value))
        return linear(self.proj, F.gelu(gate) * value)

    @torch.jit.unused
    def _gated_in_place(self, gate: Tensor, value: Tensor) -> Tensor:
        # nothing is stored for the backward pass, so no copies are needed
        if is_unmodified(self.gate, nn.Linear):
            return torch.ops.aten.gelu_(gate).mul_(value)
        return F.gelu(gate) * value


class GatedLocalMlp(nn.Module):
    """Linear to two maps, linear of GELU(3x3 depthwise(first)) * second: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        hidden_dim: channels of each map.
        drop: dropout rate before the last linear layer and at the end.

    Source: convolutional GLU of TransNeXt, arXiv 2311.17132, section 3.4.
    """

    def __init__(self, dim: int, hidden_dim: int, drop: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 2 * hidden_dim)
        self.conv = depthwise(hidden_dim, 3)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        gate, x = linear(self.fc1, x).chunk(2, 3)
        return self.drop(linear(self.fc2, self.drop(self.act(channels_last_conv(self.conv, gate)) * x)))


class ScaledLinear(nn.Module):
    """A linear layer and a learned scale per channel: (.., dim) -> (.., out_dim); `fuse` merges them.

    Args:
        dim: input channels.
        out_dim: output channels.
        layer_scale: initial value of the scale.

    Source: Going deeper with Image Transformers, arXiv 2103.17239, section 2, for the scale.
    """

    def __init__(self, dim: int, out_dim: int, layer_scale: float) -> None:
        super().__init__()
        self.fc = nn.Linear(dim, out_dim)
        self.scale: nn.Module = LayerScale(out_dim, init_values=layer_scale)

    # named as in torch's own layers: TorchScript compares the names
    def forward(self, input: Tensor) -> Tensor:
        """(.., dim) -> (.., out_dim)."""
        return self.scale(linear(self.fc, input))

    @torch.no_grad()
    def fuse(self) -> "ScaledLinear":
        """Folds the scale into the linear layer, in place, and returns the layer."""
        if isinstance(self.scale, LayerScale) and is_unmodified(self.fc, nn.Linear):
            self.fc.weight.mul_(self.scale.gamma.unsqueeze(1))
            self.fc.bias.mul_(self.scale.gamma)
            self.scale = nn.Identity()
            pack(self.fc)
        return self


@register_notrace_module  # takes another path where gradients are enabled
class ScaledMlp(Mlp):
    """Batch norm, linear, depthwise convolution, GELU, linear, layer scale: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        hidden_dim: hidden channels.
        layer_scale: initial value of the scale.
        norm: whether there is a batch norm.
        kernel_size: odd kernel size of the convolution; None for no convolution.

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
        return channels_last_conv(self.conv, linear(self.fc1, x))


class ResponseMlp(nn.Module):
    """Linear, GELU, 3x3 depthwise convolution, global response norm, linear: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        hidden_dim: hidden channels.

    Source: OverLoCK, arXiv 2502.20087, section 3.2.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = nn.GELU()
        self.conv = ResidualConv(hidden_dim)
        self.norm = GlobalResponseNorm(hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        return linear(self.fc2, self.norm(self.conv(self.act(linear(self.fc1, x)))))


class ConvNormMlp(nn.Module):
    """Two 1x1 convolutions with a batch norm each, and ReLU between them: (B, C, H, W) -> (B, C, H, W).

    The second norm is initialized to zero, so a residual branch of this layer starts as zero.

    Args:
        dim: channels C.
        hidden_dim: channels between the two convolutions.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, hidden_dim, channels_last=False)
        self.act = nn.ReLU(inplace=True)
        self.conv2 = ConvNorm(hidden_dim, dim, channels_last=False)
        nn.init.zeros_(self.conv2.norm.weight)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return self.conv2(self.act(self.conv1(x)))


class AggregatingMlp(nn.Module):
    """1x1, residual 3x3 depthwise and 1x1 convolutions of the map; their mean gates the class token.

    Args:
        dim: channels C.
        hidden_dim: hidden channels.
        reduction: C divided by the hidden channels of the gates.

    Source: dynamic aggregation feed-forward, DHVT, arXiv 2210.05958, section 3.2.
    """

    def __init__(self, dim: int, hidden_dim: int, reduction: int = 4) -> None:
        super().__init__()
        self.conv1 = ConvNorm(dim, hidden_dim, bias=True)
        self.conv2 = ConvNorm(hidden_dim, hidden_dim, 3, groups=hidden_dim, bias=True)
        self.conv3 = ConvNorm(hidden_dim, dim, bias=True)
        self.act = nn.GELU()
        self.compress = nn.Linear(dim, dim // reduction)
        self.excitation = nn.Linear(dim // reduction, dim)

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        # (B, H * W, C) -> (B, H, W, C)
        of_map = self.act(self.conv1(x[:, 1:].unflatten(1, (height, width))))
        of_map = self.conv3(of_map + self.act(self.conv2(of_map))).flatten(1, 2)
        gates = linear(self.excitation, self.act(linear(self.compress, of_map.mean(1, keepdim=True))))
        return torch.cat([x[:, :1] * gates, of_map], 1)
