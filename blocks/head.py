"""Classifier heads, from the last map to logits. Shape legend: B batch, C channels, H W map."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections import OrderedDict

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead, NormMlpClassifierHead, SelectAdaptivePool2d, get_device_dtype, trunc_normal_
from torch import Tensor, nn

from .norm import as_affine


class BatchNormHead(NormMlpClassifierHead):
    """Pooling, batch norm and a linear classifier: (B, C, H, W) -> (B, num_classes).

    With neither pooling nor classes the map is returned unchanged, without the norm.

    Args:
        dim: channels C.
        num_classes: classes; 0 for none.
        pool_type: pooling, `avg`, `max`, ..., or an empty string for none.
        drop_rate: dropout rate before the linear layer.
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
    def fuse(self) -> "BatchNormHead":
        """Folds the norm into the classifier, if there is one, in place; evaluation results stay the same."""
        if isinstance(self.norm, nn.BatchNorm2d) and not isinstance(self.fc, nn.Identity):
            norm = self.norm
            scale, shift = as_affine(norm.weight, norm.bias, norm.running_mean, norm.running_var, norm.eps)
            # a linear layer, or a 1x1 convolution without pooling
            weight = self.fc.weight.flatten(1).to(scale.dtype)
            self.fc.bias.add_(weight @ shift)
            self.fc.weight.copy_((weight * scale).view_as(self.fc.weight))
            self.norm = nn.Identity()
        return self


class LayerNormHead(ClassifierHead):
    """Pooling, layer norm and a linear classifier: (B, H, W, C) -> (B, num_classes).

    With neither pooling nor classes the map is returned unchanged, without the norm.

    Args:
        dim: channels C.
        num_classes: classes; 0 for none.
        pool_type: pooling, `avg`, `max`, ..., or an empty string for none.
        drop_rate: dropout rate before the linear layer.
        eps: epsilon of the norm.

    Source: A ConvNet for the 2020s, arXiv 2201.03545, official code; DaViT, arXiv 2204.03645, official code.
    """

    def __init__(
        self, dim: int, num_classes: int, pool_type: str = "avg", drop_rate: float = 0.0, eps: float = 1e-5
    ) -> None:
        super().__init__(dim, num_classes, pool_type=pool_type, drop_rate=drop_rate, input_fmt="NHWC")
        self.eps = eps
        self.norm: nn.Module = nn.LayerNorm(self.num_features, eps)
        self._fit_norm()

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replaces the classifier; the pooling too, unless `pool_type` is None."""
        super().reset(num_classes, pool_type)
        self._fit_norm()

    def _fit_norm(self) -> None:
        if isinstance(self.fc, nn.Identity) and self.global_pool.is_identity():
            self.norm = nn.Identity()
        elif not isinstance(self.norm, nn.LayerNorm) or self.norm.normalized_shape != (self.num_features,):
            # some kinds of pooling double the features
            self.norm = nn.LayerNorm(self.num_features, self.eps, **get_device_dtype(self))

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, num_classes), or the input of the linear layer."""
        x = self.drop(self.norm(self.global_pool(x)))
        return x if pre_logits else self.fc(x)


class DistilledLinear(nn.Module):
    """The mean of two linear classifiers, one of them (`dist`) trained by a teacher; `fuse` merges them.

    It is not a `torch.nn.Linear` itself: tools that replace linear layers, such as LoRA, would lose `dist`.

    Args:
        dim: channels.
        num_classes: classes.

    Source: Data-efficient Image Transformers, arXiv 2012.12877, section 3.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.in_features, self.out_features = dim, num_classes
        own = nn.Linear(dim, num_classes)
        self.weight, self.bias = own.weight, own.bias
        self.dist = nn.Linear(dim, num_classes)

    def forward(self, input: Tensor) -> Tensor:
        """(.., dim) -> (.., num_classes)."""
        return (F.linear(input, self.weight, self.bias) + self.dist(input)) / 2

    @torch.no_grad()
    def fuse(self) -> nn.Linear:
        """Returns one linear layer that computes the same."""
        fused = nn.Linear(self.in_features, self.out_features).to(self.weight)
        fused.weight.copy_((self.weight + self.dist.weight) / 2)
        fused.bias.copy_((self.bias + self.dist.bias) / 2)
        return fused.eval()


class DistilledHead(ClassifierHead):
    """Pooling and the mean of two linear classifiers: (B, H, W, C) -> (B, num_classes).

    Args:
        dim: channels C.
        num_classes: classes; 0 for none.
        pool_type: pooling, `avg`, `max`, ..., or an empty string for none.
        drop_rate: dropout rate before the linear layers.

    Source: Data-efficient Image Transformers, arXiv 2012.12877, section 3.
    """

    def __init__(self, dim: int, num_classes: int, pool_type: str = "avg", drop_rate: float = 0.0) -> None:
        super().__init__(dim, num_classes, pool_type=pool_type, drop_rate=drop_rate, input_fmt="NHWC")
        self.fc: nn.Module
        self._pair()

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replaces the classifiers; the pooling too, unless `pool_type` is None."""
        super().reset(num_classes, pool_type)
        self._pair()

    def _pair(self) -> None:
        if isinstance(self.fc, nn.Linear):
            pair = DistilledLinear(self.fc.in_features, self.fc.out_features)
            self.fc = pair.to(self.fc.weight).train(self.training)


class MlpHead(nn.Module):
    """Pooling, norm and an MLP (linear, GELU, norm, linear): (B, H, W, C) -> (B, num_classes).

    Without classes the last linear layer is left out. With neither pooling nor classes the map is returned unchanged.

    Args:
        dim: channels C.
        num_classes: classes; 0 for none.
        pool_type: pooling, `avg`, `max`, ..., or an empty string for none.
        drop_rate: dropout rate before the last linear layer.
        mlp_ratio: hidden channels divided by C.

    Raises:
        ValueError: `pool_type` changes the number of channels.

    Source: MambaOut, arXiv 2405.07992, official code.
    """

    def __init__(
        self, dim: int, num_classes: int, pool_type: str = "avg", drop_rate: float = 0.0, mlp_ratio: float = 4.0
    ) -> None:
        super().__init__()
        self.in_features, self.hidden_size = dim, int(dim * mlp_ratio)
        self.norm: nn.Module = nn.Identity()
        self.pre_logits: nn.Module = nn.Identity()
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, pool_type)

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replaces the last linear layer; the pooling too, unless `pool_type` is None."""
        if pool_type is not None:
            self.global_pool = SelectAdaptivePool2d(pool_type=pool_type, flatten=bool(pool_type), input_fmt="NHWC")
            if self.global_pool.feat_mult() > 1:
                raise ValueError(
                    f"pool_type must keep the number of channels, like avg, max and avgmax, got {pool_type!r}"
                )
        place = get_device_dtype(self)
        if num_classes == 0 and self.global_pool.is_identity():
            self.norm, self.pre_logits = nn.Identity(), nn.Identity()
            self.num_features = self.in_features
        elif isinstance(self.norm, nn.Identity):
            self.norm = nn.LayerNorm(self.in_features, eps=1e-6, **place)
            layers = OrderedDict(
                fc=nn.Linear(self.in_features, self.hidden_size, **place),
                act=nn.GELU(),
                norm=nn.LayerNorm(self.hidden_size, eps=1e-6, **place),
            )
            self.pre_logits = nn.Sequential(layers)
            self.num_features = self.hidden_size
        self.fc = nn.Linear(self.num_features, num_classes, **place) if num_classes else nn.Identity()
        self.train(self.training)

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, H, W, C) -> (B, num_classes), or the input of the last linear layer."""
        x = self.drop(self.pre_logits(self.norm(self.global_pool(x))))
        return x if pre_logits else self.fc(x)


class AuxiliaryHead(nn.Module):
    """The auxiliary classifier of the overview: norm, mean, linear.

    Args:
        dim: channels C.
        num_classes: classes.

    Source: OverLoCK, arXiv 2502.20087, official code.
    """

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(dim)
        self.reset(num_classes)

    def reset(self, num_classes: int) -> None:
        """Replaces the linear layer and keeps the norm."""
        self.fc = nn.Linear(len(self.norm.weight), num_classes)
        trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, num_classes)."""
        return self.fc(self.norm(x.permute(0, 3, 1, 2)).mean((2, 3)))
