"""From images to the first map. Shape legend: B batch, P channels of the image, H W its size, C channels of the map."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module
from torch import Tensor, nn

from .convolution import ConvNorm
from .lean import are_plain, gelu_conv, is_kept


class ConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2 with nothing between them, and a norm: (B, P, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, C).

    Args:
        in_chans: channels P of the image.
        dim: channels C, even.
        norm_layer: makes a norm over channels.

    Source: Neighborhood Attention Transformer, arXiv 2204.07143, section 3.3.
    """

    def __init__(self, in_chans: int, dim: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1)
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm = norm_layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, C)."""
        x = self.conv2(self.conv1(x))
        return self.norm(x.permute(0, 2, 3, 1))


@register_notrace_module  # it runs another way where gradients are wanted
class ConvNormStem(nn.Module):
    """Convolutions with a bias and a batch norm each, GELU between them: (B, P, H, W) -> (B, H', W', C).

    Args:
        in_chans: channels P of the image.
        widths: channels after each convolution, C the last of them.
        kernel_size: side of their kernels.
        stride: step of their kernels; with the usual padding each divides the size by it and rounds up.
        padding: zeros around their inputs; None for half a kernel.
    """

    def __init__(
        self, in_chans: int, widths: Sequence[int], kernel_size: int = 3, stride: int = 2, padding: int | None = None
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential()
        for i, (width, out_width) in enumerate(zip((in_chans, *widths), widths, strict=False)):
            if i > 0:
                self.layers.append(nn.GELU())
            self.layers.append(ConvNorm(width, out_width, kernel_size, stride, bias=True, padding=padding))

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, H', W', C)."""
        # channel-last in memory too, so that every map after it is
        x = x.permute(0, 2, 3, 1).contiguous()
        return self.layers(x) if torch.jit.is_scripting() else self._lean(x)

    @torch.jit.ignore
    def _lean(self, x: Tensor) -> Tensor:
        """The layers, of whose results, the largest maps of a network, not all are kept."""
        x = self.layers[0](x)
        for act, layer in zip(self.layers[1::2], self.layers[2::2], strict=True):
            if isinstance(layer, ConvNorm) and is_kept(x) and are_plain(act, layer.conv):
                x = layer.norm(gelu_conv(x, layer.conv).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
            else:
                x = layer(act(x))
        return x


@register_notrace_module  # whether to pad depends on the size of the image
class PatchStem(nn.Module):
    """One convolution over patches that do not overlap, and a norm: (B, P, H, W) -> (B, ⌈H/p⌉, ⌈W/p⌉, C).

    An image that patches do not divide is padded with zeros at the bottom and right.

    Args:
        in_chans: channels P of the image.
        dim: channels C.
        patch_size: p, pixels per side of a patch.
        norm_layer: makes a norm over channels.

    Source: Swin Transformer, arXiv 2103.14030, section 3.1.
    """

    def __init__(
        self, in_chans: int, dim: int, patch_size: int, norm_layer: Callable[[int], nn.Module] = nn.LayerNorm
    ) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.norm = norm_layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, ⌈H/p⌉, ⌈W/p⌉, C)."""
        missing_rows, missing_columns = -x.shape[2] % self.patch_size, -x.shape[3] % self.patch_size
        if missing_rows > 0 or missing_columns > 0:
            x = F.pad(x, (0, missing_columns, 0, missing_rows))
        return self.norm(self.proj(x).permute(0, 2, 3, 1))
