"""Our networks with features in the layout of another library."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from typing import Any

from torch import Tensor

from ..base import Pyramid
from ..swin import SwinTransformer
from ..zoo_davit import DaViT
from ..zoo_shvit import SHViT
from ..zoo_swiftformer import SwiftFormer
from ..zoo_twins import Twins


class ChannelsFirst(Pyramid):
    """A pyramid of maps (B, H, W, C) whose features are (B, C, H, W)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.output_fmt, self.feature_dim = "NCHW", 1

    def _convert(self, x: Tensor, output_fmt: str) -> Tensor:
        return x.permute(0, 3, 1, 2) if output_fmt == "NCHW" else x

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> the last stage's output, normalized, (B, C, H', W')."""
        return self._finish(self.stages(self.stem(x))).permute(0, 3, 1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H', W') -> logits (B, num_classes), or the input of the last linear layer."""
        x = x.permute(0, 2, 3, 1)
        x = self.head(x, pre_logits=True) if pre_logits else self.head(x)
        return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


class Tokens(Pyramid):
    """A pyramid of maps (B, H, W, C) whose features are tokens (B, H * W, C)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.output_fmt = "NLC"

    def _convert(self, x: Tensor, output_fmt: str) -> Tensor:
        return x.permute(0, 3, 1, 2) if output_fmt == "NCHW" else x

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> the last stage's output, normalized, (B, H' * W', C)."""
        return self._finish(self.stages(self.stem(x))).flatten(1, 2)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, T, C) -> logits (B, num_classes), or the input of the last linear layer."""
        # a map of one column
        x = x.unsqueeze(2)
        x = self.head(x, pre_logits=True) if pre_logits else self.head(x)
        return x.squeeze(2) if x.ndim == 4 else x


class ChannelsFirstDaViT(ChannelsFirst, DaViT):
    """`DaViT` with features (B, C, H, W)."""


class ChannelsFirstSwiftFormer(ChannelsFirst, SwiftFormer):
    """`SwiftFormer` with features (B, C, H, W)."""


class TokenTwins(Tokens, Twins):
    """`Twins` with features (B, H * W, C)."""


class TokenSwin(Tokens, SwinTransformer):
    """`SwinTransformer` with features (B, H * W, C)."""


class PooledSHViT(SHViT):
    """`SHViT` whose pooled features come before the norm of the classifier."""

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features (B, C, H, W) -> logits (B, num_classes), or the pooled features."""
        if pre_logits:
            return self.head.drop(self.head.flatten(self.head.global_pool(x)))
        return self.head(x)
