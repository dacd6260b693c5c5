"""The timm model interface that needs no feature maps: classifier, parameter groups, gradient checkpointing."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from attnzoo.blocks import fuse
from attnzoo.blocks.head import DistilledLinear


class Backbone(nn.Module):
    """Base class of all networks: the part of timm's model interface that needs no feature maps.

    A subclass creates its layers and then calls `_add_head`; it implements `forward_features` and `group_matcher`.
    Networks whose stages output feature maps are a `Pyramid`.

    Args:
        num_features: channels of the features.
        in_chans: channels of the image.
        num_classes: classes; 0 for no classifier.
        drop_rate: dropout rate before the classifier.
    """

    # suffixes of parameter names without weight decay in the published recipes, in addition to biases and norms
    undecayed: tuple[str, ...] = (".rpb",)

    def __init__(self, num_features: int, in_chans: int = 3, num_classes: int = 1000, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_features = num_features
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.drop_rate = drop_rate

    def _add_head(self, head: Any) -> None:
        """Adds the classifier, with `fc`, `num_features` and `reset` as in timm, and initializes linear layers."""
        self.head = head
        self.head_hidden_size = head.num_features
        self.apply(init_linear)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters without weight decay in the published recipes, such as position tables."""
        return {name for name, _ in self.named_parameters() if name.endswith(self.undecayed)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns that group parameters by depth, for layer-wise learning rates."""
        raise NotImplementedError

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enables gradient checkpointing: activations of blocks are recomputed in the backward pass."""
        module: Any
        for module in self.modules():
            if hasattr(module, "grad_checkpointing"):
                module.grad_checkpointing = enable

    @torch.jit.ignore
    def fuse(self) -> "Backbone":
        """Folds norms and parallel branches into convolutions, in place; see `attnzoo.blocks.fuse`.

        Returns:
            The model itself.

        Raises:
            ValueError: the model is in training mode.
        """
        return fuse(self)

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        """Returns the last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier.

        Args:
            num_classes: number of classes; 0 for no classifier.
            global_pool: pooling of the classifier; None keeps it unchanged.
        """
        self.num_classes = num_classes
        self.head.reset(num_classes, pool_type=global_pool)
        self.head_hidden_size = self.head.num_features

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> features, normalized."""
        raise NotImplementedError

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Features -> logits (B, num_classes), or the input of the last linear layer."""
        return self.head(x, pre_logits=True) if pre_logits else self.head(x)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> logits (B, num_classes)."""
        return self.forward_head(self.forward_features(x))


def init_linear(module: nn.Module) -> None:
    """Initializes linear layers, for `apply`."""
    if isinstance(module, (nn.Linear, DistilledLinear)):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_convolution(module: nn.Module) -> None:
    """Initializes convolutions like linear layers, for `apply`, in families whose official code does so."""
    if isinstance(module, nn.Conv2d):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
