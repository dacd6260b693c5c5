"""The stages of any timm backbone as maps, and what training asks of a network that is built on them.

Shapes: B batch, C channels, H W height and width of a map, S stride in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import timm
import torch
from timm.layers import Format, LayerNorm2d
from timm.models import group_parameters
from torch import Tensor, nn

from attnzoo.base import WeightsError

from .models import FOR_TRAINING, create_pretrained, not_loaded
from .training.keys import near_argument


class Stages(nn.Module):
    """A timm model that returns one map per stride, channels first.

    If several features have the same stride (as in plain transformers), the last is used.

    Args:
        architecture: name of a timm model.
        arguments: arguments of `timm.create_model`.
        finer: number of maps finer than the backbone's, each upsampled by a transposed convolution; or a function that
            returns it for the strides of the backbone.
        width: largest number of channels of a finer map.
        normalized: normalise the channels of the backbone's features.

    Attributes:
        body_strides: strides of the backbone's maps, finest first.
        strides: strides of all maps.
        map_channels: channels of all maps.

    Raises:
        ValueError: timm cannot create the model with `features_only`, or not with these arguments.
    """

    def __init__(
        self,
        architecture: str,
        arguments: Mapping[str, Any],
        finer: int | Callable[[list[int]], int] = 0,
        width: int = 256,
        normalized: bool = False,
    ) -> None:
        super().__init__()
        self.body = create_body(architecture, arguments)
        reductions, channels = self.body.feature_info.reduction(), self.body.feature_info.channels()
        self.taken = [i for i, stride in enumerate(reductions) if stride not in reductions[i + 1 :]]
        strides, channels = [reductions[i] for i in self.taken], [channels[i] for i in self.taken]
        if strides != sorted(strides):
            raise ValueError(f"model: the strides of the features of {architecture} must increase, got {strides}")
        if not isinstance(finer, int):
            finer = finer(strides)
        self.norms = nn.ModuleList([LayerNorm2d(count) if normalized else nn.Identity() for count in channels])
        widths = [channels[0]] + [min(channels[0], width)] * finer
        self.finer = nn.ModuleList([nn.ConvTranspose2d(widths[i], widths[i + 1], 2, stride=2) for i in range(finer)])
        self.body_strides, self.map_channels = strides, [*widths[:0:-1], *channels]
        self.strides = [strides[0] // 2**step for step in range(finer, 0, -1)] + strides
        self.memory_format = torch.contiguous_format
        # read once: not every timm version has `output_fmt` on its feature extractors
        self.is_channel_last = Format(getattr(self.body, "output_fmt", Format.NCHW)) == Format.NHWC

    def maps(self, images: Tensor) -> list[Tensor]:
        """Images (B, 3, H, W) -> maps (B, C, H/S, W/S), finest first."""
        features = self.body(images.contiguous(memory_format=self.memory_format))
        chosen = [features[i] for i in self.taken]
        if self.is_channel_last:
            chosen = [x.permute(0, 3, 1, 2) for x in chosen]  # (B, H, W, C) -> (B, C, H, W)
        maps = [norm(x) for norm, x in zip(self.norms, chosen, strict=True)]
        for upsample in self.finer:
            maps.insert(0, upsample(maps[0]))
        return maps


class OnStages:
    """A mixin for networks that contain `Stages`: the methods that timm's optimizers and the training call."""

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the backbone's activations in the backward pass.

        Raises:
            ValueError: the backbone does not support it.
        """
        inner, _ = self._timm_model()
        if not hasattr(inner, "set_grad_checkpointing"):
            raise ValueError("this backbone does not support grad_checkpointing: remove it")
        inner.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """Parameters of the backbone that must not have weight decay."""
        inner, prefix = self._timm_model()
        names = inner.no_weight_decay() if hasattr(inner, "no_weight_decay") else set()
        return {f"{prefix}{name}" for name in names}

    def group_matcher(self, coarse: bool = False) -> Any:
        """The layer of each parameter, for layer-wise learning rates; all that follows the backbone is the last layer.

        Raises:
            ValueError: the backbone does not define its layers.
        """
        inner, prefix = self._timm_model()
        if not hasattr(inner, "group_matcher"):
            raise ValueError("layer_decay: this backbone does not define its layers (group_matcher): remove it")
        layers = group_parameters(inner, inner.group_matcher(coarse=coarse), reverse=True)
        last = max(layers.values()) + 1

        def layer(name: str) -> int:
            return layers.get(name.removeprefix(prefix), last) if name.startswith(prefix) else last

        return layer

    def _timm_model(self) -> tuple[Any, str]:
        """The inner timm model, and the prefix of its parameter names."""
        assert isinstance(self, nn.Module)
        where, body = next((f"{name}.body.", x.body) for name, x in self.named_modules() if isinstance(x, Stages))
        return (body.model, f"{where}model.") if hasattr(body, "model") else (body, where)


def create_body(architecture: str, arguments: Mapping[str, Any]) -> Any:
    """Creates a timm model that returns its features.

    Raises:
        ValueError: the model has no features, does not take the arguments, or its weights cannot be loaded.
    """
    try:
        chosen = {key: value for key, value in arguments.items() if key != "pretrained"}
        create = create_pretrained if arguments.get("pretrained") else timm.create_model
        return create(architecture, features_only=True, **chosen)
    except (WeightsError, OSError) as error:
        raise ValueError(f"model: {not_loaded(architecture, error, FOR_TRAINING)}") from error
    # timm raises various exceptions for a model without features and for unknown arguments
    except (RuntimeError, TypeError, ValueError, AssertionError, KeyError, AttributeError, IndexError) as error:
        told = f"{architecture} cannot return features with {dict(arguments)}: {error}"
        raise ValueError(f"model: {told}{near_argument(error)}") from error
