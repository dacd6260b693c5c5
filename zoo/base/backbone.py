"""What timm asks of every network, whatever its features look like: a classifier, parameter groups, recomputation."""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from typing import Any

import torch
from timm.layers import trunc_normal_
from torch import Tensor, nn

from attnzoo.blocks import fuse


class Backbone(nn.Module):
    """Features and a classifier: the part of timm's contract that needs no feature maps.

    A subclass makes its layers, then calls `_add_head`; it implements `forward_features` and `group_matcher`. Networks
    whose stages give maps are a `Pyramid`.

    Args:
        num_features: channels of the features.
        in_chans: channels of the image.
        num_classes: classes; 0 for no classifier.
        drop_rate: dropout before the classifier.
    """

    # endings of the names of parameters, beside biases and norms, that the published recipes do not decay
    undecayed: tuple[str, ...] = (".rpb",)

    def __init__(self, num_features: int, in_chans: int = 3, num_classes: int = 1000, drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_features = num_features
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.drop_rate = drop_rate

    def _add_head(self, head: Any) -> None:
        """Adds the classifier, with the `fc`, `num_features` and `reset` of timm's, and initializes linear layers."""
        self.head = head
        self.head_hidden_size = head.num_features
        self.apply(_init_weights)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Names of the parameters, such as position tables, that the published recipes do not decay."""
        return {name for name, _ in self.named_parameters() if name.endswith(self.undecayed)}

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Patterns that group parameters by depth, for layer-wise learning rates."""
        raise NotImplementedError

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the activations of blocks in the backward pass instead of storing them."""
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
        """The last linear layer."""
        return self.head.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces the classifier.

        Args:
            num_classes: classes of the new one; 0 for none.
            global_pool: how it pools; None leaves that as it is.
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


def _init_weights(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_convolution(module: nn.Module) -> None:
    """Initializes a convolution as `Backbone` does a linear layer: for `apply`, where the authors do so."""
    if isinstance(module, nn.Conv2d):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
