"""Channel-last convolutions, and convolutions with a norm or a shortcut, which fuse into plain convolutions.

On a CPU a large depthwise kernel is much faster on a channel-last map than on a channel-first one, so families that
could use either layout keep their maps channel-last.

Shape legend: B batch, H W map, C channels.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .cpu import Linear, PointwiseConv2d, is_plain_cpu, pointwise_conv2d
from .norm import as_affine
from .resizing import multiple_of, pad_to


@register_notrace_module  # the fastest path depends on the size of the map
class ChannelsLastConv2d(nn.Conv2d):
    """`torch.nn.Conv2d` of a map (B, H, W, C), padded with zeros."""

    def forward(self, input: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H', W', out_channels)."""
        if is_plain_cpu(input) and self._is_dilated_depthwise():
            return self._interleaved(input)
        x = input.permute(0, 3, 1, 2)
        if self.kernel_size == (1, 1) and self.stride == (1, 1) and self.groups == 1:
            return pointwise_conv2d(x, self.weight, self.bias).permute(0, 2, 3, 1)
        # torch copies the kernel to the layout of the map on every call: from half a million elements on, that takes
        # longer than copying most maps
        if self.in_channels // self.groups * self.out_channels * self.kernel_size[0] * self.kernel_size[1] > 2**19:
            x = x.contiguous()
        return self._conv_forward(x, self.weight, self.bias).permute(0, 2, 3, 1).contiguous()

    @torch.jit.unused
    def _is_dilated_depthwise(self) -> bool:
        """Returns whether this is a dilated depthwise convolution that keeps the map size."""
        (rows, columns), (step, other) = self.kernel_size, self.dilation
        return (
            1 < step == other
            and self.stride == (1, 1)
            and self.in_channels == self.out_channels == self.groups
            and self.padding == (step * (rows // 2), step * (columns // 2))
        )

    @torch.jit.unused
    def _interleaved(self, x: Tensor) -> Tensor:
        """Convolves every d-th pixel without dilation instead of with dilation d: a plain depthwise convolution."""
        batch, height, width, channels = x.shape
        step = self.dilation[0]
        rows, columns = multiple_of(height, step) // step, multiple_of(width, step) // step
        x = pad_to(x, rows * step, columns * step)
        # (B, H', d, W', d, C) -> (B * d * d, C, H', W')
        x = x.reshape(batch, rows, step, columns, step, channels).permute(0, 2, 4, 1, 3, 5)
        x = x.reshape(-1, rows, columns, channels).permute(0, 3, 1, 2)
        padding = (self.kernel_size[0] // 2, self.kernel_size[1] // 2)
        x = F.conv2d(x, self.weight, self.bias, padding=padding, groups=channels)
        # and back to (B, H, W, C)
        x = x.permute(0, 2, 3, 1).reshape(batch, step, step, rows, columns, channels).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(batch, rows * step, columns * step, channels)[:, :height, :width].contiguous()


def depthwise(
    dim: int, kernel_size: int, bias: bool = True, channels_last: bool = True, dilation: int = 1
) -> nn.Conv2d:
    """Returns a depthwise convolution that keeps the size of the map.

    Args:
        dim: channels C.
        kernel_size: odd kernel size.
        bias: whether it has a bias.
        channels_last: whether maps are (B, H, W, C) instead of (B, C, H, W).
        dilation: spacing between kernel elements.
    """
    layer = ChannelsLastConv2d if channels_last else nn.Conv2d
    padding = dilation * (kernel_size // 2)
    return layer(dim, dim, kernel_size, padding=padding, dilation=dilation, groups=dim, bias=bias)


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
        self.conv: nn.Conv2d
        if not channels_last and kernel_size == stride == groups == 1:
            self.conv = PointwiseConv2d(dim, out_dim, bias)
        else:
            layer = ChannelsLastConv2d if channels_last else nn.Conv2d
            self.conv = layer(dim, out_dim, kernel_size, stride, padding, dilation, groups, bias)
        self.norm = nn.BatchNorm2d(out_dim)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/stride⌉, ⌈W/stride⌉, out_dim) with default padding, or the same channel-first."""
        return self.normed(self.conv(x))

    def normed(self, x: Tensor) -> Tensor:
        """Applies the norm alone, to the output of the convolution."""
        if self.channels_last:
            return self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return self.norm(x)

    def fuse(self) -> nn.Conv2d | Linear:
        """Returns one layer for evaluation mode: a linear layer for 1x1 on channel-last maps, else a convolution."""
        conv = fuse_conv_bn_eval(self.conv, self.norm)
        if isinstance(conv, PointwiseConv2d):
            return conv.fuse()
        if not self.channels_last or conv.kernel_size != (1, 1) or conv.stride != (1, 1) or conv.groups > 1:
            return conv
        linear = Linear(conv.in_channels, conv.out_channels).to(conv.weight).eval()
        linear.load_state_dict({"weight": conv.weight.flatten(1), "bias": conv.bias})
        return linear.fuse()


class ResidualConv(nn.Module):
    """x + depthwise convolution of x: (B, H, W, C) -> (B, H, W, C); `fuse` merges them.

    Args:
        dim: channels C.
        kernel_size: odd kernel size.
        norm: whether a batch norm follows the convolution, which then has no bias.
        channels_last: whether maps are (B, H, W, C) instead of (B, C, H, W).
    """

    def __init__(self, dim: int, kernel_size: int = 3, norm: bool = False, channels_last: bool = True) -> None:
        super().__init__()
        self.conv: nn.Module
        if norm:
            self.conv = ConvNorm(dim, dim, kernel_size, groups=dim, channels_last=channels_last)
        else:
            self.conv = depthwise(dim, kernel_size, channels_last=channels_last)

    def forward(self, x: Tensor) -> Tensor:
        """A map -> a map of the same shape."""
        return x + self.conv(x)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """Returns one convolution that computes the same: the center of the kernel adds the input itself."""
        conv = self.conv.fuse() if isinstance(self.conv, ConvNorm) else self.conv
        assert isinstance(conv, nn.Conv2d)
        rows, columns = conv.kernel_size
        conv.weight[:, :, rows // 2, columns // 2] += 1
        return conv


class NormLinear(nn.Module):
    """A batch norm and a linear layer: (B, H, W, C) -> (B, H, W, out_dim); `fuse` merges them.

    Args:
        dim: channels C.
        out_dim: output channels.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.fc = Linear(dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, out_dim)."""
        return self.fc(self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))

    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        """Returns one linear layer that computes the same in evaluation mode."""
        norm = self.norm
        scale, shift = as_affine(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
        weight = self.fc.weight.to(scale.dtype)
        self.fc.bias.add_(weight @ shift)
        self.fc.weight.copy_(weight * scale)
        return self.fc.fuse()
