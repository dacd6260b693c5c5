"""timm's ResNet with attention layers in its blocks, under the interface of the networks here."""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from timm.models._features import feature_take_indices
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from attnzoo.blocks import attention_layer, fuse

from .recomputation import checkpointed_sequence

AttentionConstructor = Callable[..., nn.Module]

BLOCKS: Mapping[str, type[BasicBlock] | type[Bottleneck]] = {"basic": BasicBlock, "bottleneck": Bottleneck}
WIDTHS = (64, 128, 256, 512)
STAGES = ("layer1", "layer2", "layer3", "layer4")


class AttentionResNet(ResNet):
    """timm's ResNet whose blocks end with an attention layer: maps of strides 4, 8, 16 and 32.

    As in the other networks here, stages are counted from stride 4: timm's map of stride 2 is not among them.

    Args:
        block: `basic` or `bottleneck`, or a class of blocks.
        layers: blocks per stage.
        attn_layer: an attention layer after the last norm of a block: a name that `attnzoo.blocks.attention_layer`
            knows, a constructor that is called with the channels, or one of these per stage; None for none.
        channels: per stage, the channels of a block before its expansion.
        output_stride: 32, 16 or 8; lower strides have dilated stages.
        network: further arguments of timm's `ResNet`, such as `in_chans`, `num_classes` and `drop_path_rate`.

    Raises:
        ValueError: the block or the attention layer is unknown, or stages with layers of their own are equally wide.
    """

    output_fmt = "NCHW"
    # suffixes of parameter names without weight decay in the published recipes, in addition to biases and norms
    undecayed: tuple[str, ...] = ()
    # TorchScript cannot compile it
    __jit_unused_properties__ = ("stages",)

    def __init__(
        self,
        block: str | type[BasicBlock] | type[Bottleneck] = "bottleneck",
        layers: Sequence[int] = (3, 4, 6, 3),
        attn_layer: str | AttentionConstructor | Sequence[str | AttentionConstructor] | None = None,
        channels: Sequence[int] = WIDTHS,
        output_stride: int = 32,
        **network: Any,
    ) -> None:
        if isinstance(block, str):
            if block not in BLOCKS:
                raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {block!r}")
            block = BLOCKS[block]
        if attn_layer is not None:
            widths = [width * block.expansion for width in channels]
            network["block_args"] = {**network.get("block_args", {}), "attn_layer": _by_width(attn_layer, widths)}
        super().__init__(block, tuple(layers), channels=tuple(channels), output_stride=output_stride, **network)
        del self.feature_info[0]

    @property
    def stages(self) -> list[nn.Sequential]:
        """The stages that are not pruned, sequences of blocks."""
        return [stage for stage in map(self.get_submodule, STAGES) if isinstance(stage, nn.Sequential) and len(stage)]

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Returns the names of parameters without weight decay in the published recipes: none."""
        return set()

    @torch.jit.ignore
    def fuse(self) -> "AttentionResNet":
        """Folds norms into convolutions, in place; see `attnzoo.blocks.fuse`.

        Returns:
            The model itself.

        Raises:
            ValueError: the model is in training mode.
        """
        fuse(self)
        for module in list(self.modules()):
            if isinstance(module, (ResNet, BasicBlock, Bottleneck, nn.Sequential)):
                names = [name for name, _ in module.named_children()]
                # a norm follows its convolution in all of these
                for conv, norm in pairwise(names):
                    _fold(module, conv, norm)
        return self

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Enables gradient checkpointing: activations of blocks are recomputed in the backward pass."""
        module: Any
        for module in self.modules():
            if hasattr(module, "grad_checkpointing"):
                module.grad_checkpointing = enable

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> the last stage's output."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return self._maps(x, len(STAGES))[-1]
        x = self.maxpool(self.act1(self.bn1(self.conv1(x))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Returns the outputs of stages, see `Pyramid.forward_intermediates`; there is no norm after the last stage.

        Raises:
            ValueError: an unknown `output_fmt`.
        """
        if output_fmt not in ("NCHW", "NHWC"):
            raise ValueError(f"output_fmt must be NCHW or NHWC, got {output_fmt!r}")
        take, last = feature_take_indices(len(STAGES), indices)
        maps = self._maps(x, last + 1 if stop_early else len(STAGES))
        intermediates = [maps[i] for i in take]
        if output_fmt == "NHWC":
            intermediates = [x.permute(0, 2, 3, 1) for x in intermediates]
        return intermediates if intermediates_only else (maps[-1], intermediates)

    @torch.jit.unused
    def _maps(self, x: Tensor, count: int) -> list[Tensor]:
        """Returns the outputs of the first stages."""
        x, maps = self.maxpool(self.act1(self.bn1(self.conv1(x)))), []
        for name in STAGES[:count]:
            stage = getattr(self, name)
            x = checkpointed_sequence(stage, x) if self.grad_checkpointing else stage(x)
            maps.append(x)
        return maps

    @torch.jit.ignore
    def reshape_transform(self, x: Any, size: tuple[int, int] | None = None) -> Tensor:
        """Returns the map (B, C, H, W), also of a stage that returns more; see `Pyramid.reshape_transform`."""
        found: Tensor = x if isinstance(x, Tensor) else x[0]
        return found

    def prune_intermediate_layers(
        self, indices: int | list[int] | None = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Removes stages that `forward_intermediates` does not need, see `Pyramid.prune_intermediate_layers`."""
        take, last = feature_take_indices(len(STAGES), indices)
        for name in STAGES[last + 1 :]:
            setattr(self, name, type(getattr(self, name))())
        shorter = last < len(STAGES) - 1
        if shorter:
            self.num_features = self.feature_info[last]["num_chs"]
        if prune_head or shorter:
            self.reset_classifier(0, "")
        return take


def _by_width(
    attn_layer: str | AttentionConstructor | Sequence[str | AttentionConstructor], widths: Sequence[int]
) -> AttentionConstructor:
    """Returns one constructor for all stages, which chooses by the channels."""
    if isinstance(attn_layer, str):
        return attention_layer(attn_layer)
    if not isinstance(attn_layer, Sequence):
        return attn_layer
    constructors = [attention_layer(layer) if isinstance(layer, str) else layer for layer in attn_layer]
    if len(constructors) != len(widths) or len(set(widths)) != len(widths):
        raise ValueError(
            f"attn_layer per stage needs one layer for each of {len(widths)} stages of different widths, "
            f"got {len(constructors)} layers for widths {', '.join(map(str, widths))}"
        )
    by_width = dict(zip(widths, constructors, strict=True))
    return lambda channels, **arguments: by_width[channels](channels, **arguments)


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    """Folds a norm into the convolution before it, in place, if they are of these kinds."""
    before, after = getattr(module, conv), getattr(module, norm)
    if isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d):
        setattr(module, conv, fuse_conv_bn_eval(before, after))
        setattr(module, norm, nn.Identity())
