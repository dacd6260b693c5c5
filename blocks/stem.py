"""Stems, from images to the first map. Shape legend: B batch, P image channels, H W image size, C map channels."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import register_notrace_module
from torch import Tensor, nn

from attnzoo.kernels.transforms import is_transformed

from .convolution import ConvNorm
from .cpu import recomputed
from .resizing import multiple_of, pad_to
from .shortcuts import is_observed


class ConvStem(nn.Module):
    """Two 3x3 convolutions of stride 2 and a norm: (B, P, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, C).

    Args:
        in_chans: channels P of the image.
        dim: channels C, even.
        norm_layer: builds a norm over the channels.
        act_layer: builds the activation between the convolutions, after a norm; None for neither.

    Source: Neighborhood Attention Transformer, arXiv 2204.07143, section 3.3; with an activation: InternImage, arXiv
    2211.05778, section 3.2.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        act_layer: Callable[[], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, dim // 2, 3, stride=2, padding=1)
        self.between = nn.Identity() if act_layer is None else nn.Sequential(norm_layer(dim // 2), act_layer())
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, stride=2, padding=1)
        self.norm = norm_layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, ⌈H/4⌉, ⌈W/4⌉, C)."""
        x = self.between(self.conv1(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.norm(self.conv2(x).permute(0, 2, 3, 1))


@register_notrace_module  # whether to pad depends on the size of the image
class PatchStem(nn.Module):
    """One convolution with the stride of a patch, and a norm: (B, P, H, W) -> (B, ⌈H/p⌉, ⌈W/p⌉, C).

    An image whose sides are not multiples of the patch size is padded with zeros at the bottom and right.

    Args:
        in_chans: channels P of the image.
        dim: channels C.
        patch_size: p, pixels per side of a patch.
        norm_layer: builds a norm over the channels.
        kernel_size: kernel size, at least patch_size; patches overlap if it is larger.
        padding: additional zeros around the image; None for half of the overlap of patches, rounded up.

    Source: Swin Transformer, arXiv 2103.14030, section 3.1; overlapping: CSWin Transformer, arXiv 2107.00652, 3.1.
    """

    def __init__(
        self,
        in_chans: int,
        dim: int,
        patch_size: int,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        kernel_size: int | None = None,
        padding: int | None = None,
    ) -> None:
        super().__init__()
        kernel_size = kernel_size or patch_size
        padding = (kernel_size - patch_size + 1) // 2 if padding is None else padding
        self.patch_size = patch_size
        self.proj = nn.Conv2d(in_chans, dim, kernel_size, patch_size, padding)
        self.norm = norm_layer(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, ⌈H/p⌉, ⌈W/p⌉, C)."""
        height, width = multiple_of(x.shape[2], self.patch_size), multiple_of(x.shape[3], self.patch_size)
        x = pad_to(x, height, width, channels_last=False)
        return self.norm(self.proj(x).permute(0, 2, 3, 1))


@register_notrace_module  # takes another path where gradients are enabled
class ConvNormStem(nn.Sequential):
    """Convolutions with batch norms, and activations between them: (B, P, H, W) -> (B, H', W', C).

    Args:
        in_chans: channels P of the image.
        dims: channels after each convolution; the last is C.
        strides: strides of the convolutions, by default 2 each; a side is divided by each of them and rounded up.
        kernel_size: kernel size of the convolutions, or one per convolution.
        padding: zeros around their inputs; None for half the kernel size, rounded down.
        bias: whether the convolutions have a bias in addition to the norm's.
        act_layer: builds the activation.
        channels_last: whether the output is (B, H', W', C) instead of (B, C, H', W').
        groups: groups of channels of each convolution, by default 1 each.
    """

    def __init__(
        self,
        in_chans: int,
        dims: Sequence[int],
        strides: Sequence[int] | None = None,
        kernel_size: int | Sequence[int] = 3,
        padding: int | None = None,
        bias: bool = False,
        act_layer: Callable[[], nn.Module] = nn.GELU,
        channels_last: bool = True,
        groups: Sequence[int] | None = None,
    ) -> None:
        strides = [2] * len(dims) if strides is None else strides
        sizes = [kernel_size] * len(dims) if isinstance(kernel_size, int) else kernel_size
        groups = [1] * len(dims) if groups is None else groups
        arguments: dict[str, Any] = {"bias": bias, "channels_last": channels_last, "padding": padding}
        layers: list[nn.Module] = []
        for before, dim, size, stride, count in zip((in_chans, *dims), dims, sizes, strides, groups, strict=False):
            layers += [act_layer()] if layers else []
            layers.append(ConvNorm(before, dim, size, stride, count, **arguments))
        super().__init__(*layers)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, H', W', C), or (B, C, H', W')."""
        # channel-last in memory from here on, whatever the shape: large depthwise kernels are only fast for such maps
        if torch.jit.is_scripting() or not self._is_transformed():
            x = x.contiguous(memory_format=torch.channels_last)
        if self.channels_last:
            x = x.permute(0, 2, 3, 1)
        if torch.jit.is_scripting() or self._is_observed():
            for layer in self:
                x = layer(x)
            return x
        return self._lean(x)

    @torch.jit.unused
    def _is_transformed(self) -> bool:
        # vmap cannot copy to another layout in memory
        return is_transformed()

    @torch.jit.unused
    def _is_observed(self) -> bool:
        return is_observed(*self.modules())

    @torch.jit.unused
    def _lean(self, x: Tensor) -> Tensor:
        """Runs the layers without storing the activations, the largest maps of a network, for the backward pass."""
        first, *others = self
        x = first(x)
        for act, layer in zip(others[::2], others[1::2], strict=True):
            if isinstance(layer, ConvNorm) and not layer.is_fused:
                x = layer.normed(recomputed(partial(_activated, act, layer), x))
            else:
                x = layer(act(x))
        return x


def _activated(act: nn.Module, layer: ConvNorm, x: Tensor) -> Tensor:
    return layer.convolved(act(x))
