"""From the last map to logits. Shape legend: B batch, C channels, H W map."""

from __future__ import annotations

import torch
from timm.layers import NormMlpClassifierHead, get_device_dtype
from torch import nn

from .convolution import as_affine


class BatchNormHead(NormMlpClassifierHead):
    """Pools a map, norms what is left over the batch, and classifies: (B, C, H, W) -> (B, num_classes).

    With neither pooling nor classes the map passes as it is, not normed.

    Args:
        dim: channels C.
        num_classes: classes; 0 for none.
        pool_type: how to pool, `avg`, `max`, ..., or an empty string for not at all.
        drop_rate: dropout before the linear layer.
    """

    def __init__(self, dim: int, num_classes: int, pool_type: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__(dim, num_classes, pool_type=pool_type, drop_rate=drop_rate, norm_layer=nn.BatchNorm2d)
        self.norm: nn.Module
        self._fit_norm()

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replaces the classifier; the pooling too, unless `pool_type` is None."""
        super().reset(num_classes, pool_type)
        self._fit_norm()

    def _fit_norm(self) -> None:
        if isinstance(self.fc, nn.Identity) and self.global_pool.is_identity():
            self.norm = nn.Identity()
        elif isinstance(self.norm, nn.Identity):
            self.norm = nn.BatchNorm2d(self.in_features, **get_device_dtype(self)).train(self.training)

    @torch.no_grad()
    def fuse(self) -> BatchNormHead:
        """Folds the norm into the classifier, in place, if there is one; computes the same in evaluation mode."""
        if isinstance(self.norm, nn.BatchNorm2d) and not isinstance(self.fc, nn.Identity):
            scale, shift = as_affine(self.norm)
            # a linear layer, or a 1x1 convolution where nothing is pooled
            weight = self.fc.weight.flatten(1).to(scale.dtype)
            self.fc.bias.add_(weight @ shift)
            self.fc.weight.copy_((weight * scale).view_as(self.fc.weight))
            self.norm = nn.Identity()
        return self
