"""Channel-last convolutions, and convolutions with a norm or a shortcut, which fuse into plain convolutions.

On a CPU a large depthwise kernel is much faster on a channel-last map than on a channel-first one, so families that
could use either layout keep their maps channel-last.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .cpu import linear, pack, packed_weights, pointwise_conv, prefers_convolution
from .norm import as_affine, is_constant
from .resizing import multiple_of, pad_to
from .shortcuts import Layer, is_plain_cpu, is_unmodified


def channels_last_conv(layer: Layer, x: Tensor) -> Tensor:
    """Calls a `torch.nn.Conv2d`, or what replaced it, with a map (B, H, W, C) -> (B, H', W', out_channels).

    Large 1x1 convolutions and dilated depthwise ones are faster on a CPU than the layer itself.
    """
    if torch.jit.is_scripting():
        return layer.forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return _channels_last_conv(layer, x)


@torch.jit.unused
def _channels_last_conv(layer: nn.Module, x: Tensor) -> Tensor:
    if type(layer) is not nn.Conv2d:
        return layer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    is_pointwise = layer.kernel_size == (1, 1) and layer.stride == (1, 1) and layer.groups == 1
    if is_plain_cpu(x) and is_unmodified(layer, nn.Conv2d):
        packed = packed_weights(x, layer) if is_pointwise else None
        if packed is not None:
            out = packed.multiply(x.reshape(-1, x.shape[-1]), layer.weight.flatten(1), layer.bias)
            return out.reshape(*x.shape[:-1], -1)
        if _is_dilated_depthwise(layer):
            return _interleaved(layer, x)
        if is_pointwise and not prefers_convolution(x, x.numel() // max(x.shape[-1], 1)):
            return F.linear(x, layer.weight.flatten(1), layer.bias)
    x = x.permute(0, 3, 1, 2)
    if is_pointwise:
        return pointwise_conv(layer, x).permute(0, 2, 3, 1)
    # torch copies the kernel to the layout of the map on every call: from half a million elements on, that takes
    # longer than copying most maps
    if layer.in_channels // layer.groups * layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1] > 2**19:
        x = x.contiguous()
    return layer(x).permute(0, 2, 3, 1).contiguous()


def _is_dilated_depthwise(layer: nn.Conv2d) -> bool:
    """Returns whether a layer is a dilated depthwise convolution that keeps the map size."""
    (rows, columns), (step, other) = layer.kernel_size, layer.dilation
    return (
        1 < step == other
        and layer.stride == (1, 1)
        and layer.in_channels == layer.out_channels == layer.groups
        and layer.padding == (step * (rows // 2), step * (columns // 2))
    )


def _interleaved(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolves every d-th pixel without dilation instead of with dilation d: a plain depthwise convolution."""
    batch, height, width, channels = x.shape
    step = layer.dilation[0]
    rows, columns = multiple_of(height, step) // step, multiple_of(width, step) // step
    x = pad_to(x, rows * step, columns * step)
    # (B, H', d, W', d, C) -> (B * d * d, C, H', W')
    x = x.reshape(batch, rows, step, columns, step, channels).permute(0, 2, 4, 1, 3, 5)
    x = x.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
    padding = (layer.kernel_size[0] // 2, layer.kernel_size[1] // 2)
    x = F.conv2d(x, layer.weight, layer.bias, padding=padding, groups=channels)
    # and back to (B, H, W, C)
    x = x.permute(0, 2, 3, 1).reshape(batch, step, step, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
    return x.reshape(batch, rows * step, columns * step, channels)[:, :height, :width].contiguous()


def depthwise(dim: int, kernel_size: int, bias: bool = True, dilation: int = 1) -> nn.Conv2d:
    """Returns a depthwise convolution that keeps the size of the map; see `channels_last_conv` for maps (B, H, W, C).

    Args:
        dim: channels C.
        kernel_size: odd kernel size.
        bias: whether it has a bias.
        dilation: spacing between kernel elements.
    """
    padding = dilation * (kernel_size // 2)
    return nn.Conv2d(dim, dim, kernel_size, padding=padding, dilation=dilation, groups=dim, bias=bias)


class ConvNorm(nn.Module):
    """A convolution and a batch norm; `fuse` merges them into one convolution.

    Args:
        dim: input channels.
        out_dim: output channels.
        kernel_size: kernel size.
        stride: stride of the convolution.
        groups: groups of channels.
        bias: whether the convolution has a bias in addition to the norm's.
        channels_last: whether maps are (B, H, W, C) instead of (B, C, H, W).
        dilation: spacing between kernel elements.
        padding: zeros around the map; None for the padding that keeps its size at stride 1.
    """

    def __init__(
        self,
        dim: int,
        out_dim: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        bias: bool = False,
        channels_last: bool = True,
        dilation: int = 1,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2) if padding is None else padding
        self.conv = nn.Conv2d(dim, out_dim, kernel_size, stride, padding, dilation, groups, bias)
        self.norm: Any = nn.BatchNorm2d(out_dim)
        self.channels_last = channels_last
        self.is_pointwise = kernel_size == stride == groups == 1
        self.is_fused = False

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, out_dim) with default padding, or the same channel-first."""
        x = self.convolved(x)
        return x if self.is_fused else self.normed(x)

    def convolved(self, x: Tensor) -> Tensor:
        """Applies the convolution alone."""
        if self.channels_last:
            return channels_last_conv(self.conv, x)
        return pointwise_conv(self.conv, x) if self.is_pointwise else self.conv(x)

    def normed(self, x: Tensor) -> Tensor:
        """Applies the norm alone, to the output of the convolution."""
        if self.channels_last:
            return self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(x)

    def fuse(self) -> "ConvNorm":
        """Folds the norm into the convolution, in place, and returns the layer; a norm of another kind stays."""
        if is_constant(self.norm) and is_unmodified(self.conv, nn.Conv2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.norm)
            self.norm, self.is_fused = nn.Identity(), True
            if self.is_pointwise:
                pack(self.conv)
        return self


class ConvNormAct(ConvNorm):
    """A convolution, a batch norm and SiLU; `fuse` merges the first two.

    Args:
        dim: input channels.
        out_dim: output channels.
        kernel_size: kernel size.
        stride: stride of the convolution.
        groups: groups of channels.
    """

    def __init__(self, dim: int, out_dim: int, kernel_size: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(dim, out_dim, kernel_size, stride, groups)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, out_dim)."""
        x = self.convolved(x)
        return self.act(x if self.is_fused else self.normed(x))


class ResidualConv(nn.Module):
    """x + depthwise convolution of x: (B, H, W, C) -> (B, H, W, C); `fuse` merges them.

    Args:
        dim: channels C.
        kernel_size: odd kernel size.
        norm: whether a batch norm follows the convolution, which then has no bias.
        channels_last: whether maps are (B, H, W, C) instead of (B, C, H, W).
    """

    has_norm: Final[bool]

    def __init__(self, dim: int, kernel_size: int = 3, norm: bool = False, channels_last: bool = True) -> None:
        super().__init__()
        self.has_norm, self.channels_last, self.is_fused = norm, channels_last, False
        self.conv: nn.Module
        if norm:
            self.conv = ConvNorm(dim, dim, kernel_size, groups=dim, channels_last=channels_last)
        else:
            self.conv = depthwise(dim, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        """A map -> a map of the same shape."""
        if self.has_norm:
            out = self.conv(x)
        else:
            out = channels_last_conv(self.conv, x) if self.channels_last else self.conv(x)
        return out if self.is_fused else x + out

    @torch.no_grad()
    def fuse(self) -> "ResidualConv":
        """Adds the input by the center of the kernel, in place, and returns the layer."""
        conv = self.conv
        if isinstance(conv, ConvNorm):
            conv = conv.fuse().conv if is_constant(conv.norm) or conv.is_fused else conv
        if not self.is_fused and is_unmodified(conv, nn.Conv2d):
            conv.weight[:, :, conv.kernel_size[0] // 2, conv.kernel_size[1] // 2] += 1
            self.is_fused = True
        return self


class NormLinear(nn.Module):
    """A batch norm and a linear layer: (B, H, W, C) -> (B, H, W, out_dim); `fuse` merges them.

    Args:
        dim: channels C.
        out_dim: output channels.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm: Any = nn.BatchNorm2d(dim)
        self.fc = nn.Linear(dim, out_dim)
        self.is_fused = False

    # named as in torch's own layers: TorchScript compares the names
    def forward(self, input: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, out_dim)."""
        if not self.is_fused:
            input = self.norm(input.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return linear(self.fc, input)

    @torch.no_grad()
    def fuse(self) -> "NormLinear":
        """Folds the norm into the linear layer, in place, and returns the layer; a norm of another kind stays."""
        norm = self.norm
        if is_constant(norm) and is_unmodified(self.fc, nn.Linear):
            scale, shift = as_affine(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
            weight = self.fc.weight.to(scale.dtype)
            self.fc.bias.add_(weight @ shift)
            self.fc.weight.copy_(weight * scale)
            self.norm, self.is_fused = nn.Identity(), True
            pack(self.fc)
        return self
