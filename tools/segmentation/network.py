"""Decoders of segmentation-models-pytorch on any timm backbone.

Shapes: B batch, C channels, K classes, H W height and width, S stride in pixels.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo_command.keys import unknown_key

from ..stages import OnStages, Stages
from ..training.optimization import blaming
from ..training.ranges import is_number

# names in segmentation-models-pytorch
DECODERS = {
    "upernet": "UPerNet", "fpn": "FPN", "unet": "Unet", "deeplabv3plus": "DeepLabV3Plus", "segformer": "Segformer"
}  # fmt: skip

# stride of the finest map that every decoder needs, and of the coarsest that decoders are built for
_FINEST, _COARSEST = 4, 32
# decoders that use the coarsest maps only, and how many
_USED = {"fpn": 4}
_ENCODER = "attnzoo"


class Encoder(Stages):
    """A timm model with the interface of an encoder of segmentation-models-pytorch: one map per power of two.

    A backbone that begins at stride 8 or 16 gets finer maps by transposed convolutions, and one that ends before
    stride 32 coarser ones by pooling, as BEiT does for UPerNet (Bao et al., arXiv:2106.08254). A map of stride 2 that
    the backbone does not have is empty, which decoders take.

    Args:
        architecture: name of a timm model.
        arguments: arguments of `timm.create_model`.
        count: number of maps that the decoder uses, if it does not use all.

    Attributes:
        out_channels: channels of the image and of each map, for strides 1, 2, 4 and so on.
        output_stride: stride of the coarsest map; the sides of an image must be multiples of it.

    Raises:
        ValueError: the backbone does not fit.
    """

    def __init__(self, architecture: str, arguments: Mapping[str, Any], count: int | None = None) -> None:
        def finer(strides: list[int]) -> int:
            # a map that the decoder does not use would have parameters without gradients
            finest = max(_FINEST, max(_COARSEST, strides[-1]) >> (count - 1) if count else 0)
            return max(0, (strides[0] // finest).bit_length() - 1)

        super().__init__(architecture, arguments, finer)
        strides, maps = self.strides, len(self.strides)
        self.output_stride = max(_COARSEST, strides[-1])
        wanted = [2**i for i in range(1, self.output_stride.bit_length())]
        if missing := [stride for stride in wanted if strides[0] < stride < strides[-1] and stride not in strides]:
            given = ", ".join(map(str, strides))
            raise ValueError(f"model: a decoder needs a map of stride {missing[0]}, {architecture} has {given}")
        # index of the map for each stride: -1 for an empty one, the number of maps for one that is pooled
        self.order = [-1 if x < strides[0] else strides.index(x) if x in strides else maps for x in wanted]
        channels = [0 if i < 0 else self.map_channels[min(i, maps - 1)] for i in self.order]
        self.out_channels = [int(arguments.get("in_chans", 3)), *channels]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Images (B, C, H, W) -> the images and maps (B, C, H/S, W/S), finest first."""
        maps, features = self.maps(images), [images]
        for index in self.order:
            height, width = (side // 2 for side in features[-1].shape[-2:])
            if index < 0:
                features.append(images.new_empty(images.shape[0], 0, height, width))
            else:
                features.append(maps[index] if index < len(maps) else F.max_pool2d(features[-1], 2))
        # the coarsest map in the stride of a decoder for dilated networks
        if self.output_stride < 2 ** len(self.order):
            size = [side // self.output_stride for side in images.shape[-2:]]
            features[-1] = F.interpolate(features[-1], size=size, mode="bilinear", align_corners=False)
        return features

    def set_in_channels(self, in_channels: int, pretrained: bool = True) -> None:
        """Part of the interface: the backbone was created for its channels."""

    def make_dilated(self, output_stride: int) -> None:
        """Sets the stride of the coarsest map for DeepLabV3+; the map is upsampled, no layer is dilated."""
        self.output_stride = min(self.output_stride, output_stride)


class Segmenter(OnStages, nn.Module):
    """A decoder on a timm backbone.

    Args:
        net: network of segmentation-models-pytorch on an `Encoder`.
        is_whole: the logits of the network have the size of the image; otherwise they are upsampled to it.
        preprocessing: `input_size`, `mean`, `std` and `interpolation`, as in timm's configs.
        classes: names of the classes.
        architecture: name of the backbone.
    """

    # the task of its exported file
    export_task = "segment"

    def __init__(
        self,
        net: nn.Module,
        is_whole: bool,
        preprocessing: Mapping[str, Any],
        classes: Sequence[str],
        architecture: str,
    ) -> None:
        super().__init__()
        self.net, self.is_whole = net, is_whole
        self.pretrained_cfg = {
            **preprocessing, "architecture": architecture, "crop_pct": 1.0, "crop_mode": "center",
            "num_classes": len(classes), "label_names": list(classes),
        }  # fmt: skip

    @property
    def title(self) -> str:
        """Decoder and backbone, for messages."""
        return f"{type(self.net).__name__} on {self.pretrained_cfg['architecture']}"

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) -> logits (B, K, H, W)."""
        logits: Tensor = self.net(images)
        if self.is_whole:
            return logits
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear", align_corners=False)

    def get_classifier(self) -> nn.Module:
        """Returns all that is trained on a frozen backbone: the decoder with its head, and the finer maps."""
        net: Any = self.net
        return nn.ModuleList([net.encoder.finer, net.decoder, net.segmentation_head])


def create_segmenter(
    architecture: str,
    arguments: Mapping[str, Any],
    decoder: Mapping[str, Any],
    classes: Sequence[str],
    preprocessing: Mapping[str, Any],
) -> Segmenter:
    """Creates a decoder on a timm backbone.

    Args:
        architecture: name of a timm model.
        arguments: arguments of `timm.create_model`.
        decoder: `name`, one of DECODERS, and the arguments of that network of segmentation-models-pytorch that begin
            with `decoder_`, without this prefix, such as `channels`; for deeplabv3plus also `output_stride`. None
            leaves an argument out.
        classes: names of the classes.
        preprocessing: see `Segmenter`.

    Raises:
        ValueError: the decoder or the backbone is unknown, or they do not fit.
        ImportError: segmentation-models-pytorch is not installed.
    """
    name = decoder.get("name")
    if name not in DECODERS:
        raise ValueError(f"decoder.name must be one of {', '.join(DECODERS)}, got {name!r}")
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise ImportError("segmentation needs segmentation-models-pytorch: install attnzoo[segmentation]") from error
    network = getattr(smp, DECODERS[name])
    known = {_short(key): hint for key, hint in _hints(network, name).items()}
    # None clears a key, also one of another decoder
    of_any = {_short(key) for other, called in DECODERS.items() for key in _hints(getattr(smp, called), other)}
    given = {key: x for key, x in decoder.items() if key != "name" and not (x is None and key in of_any)}
    if unknown := [key for key in given if key not in known]:
        raise ValueError(
            f"decoder: {name}: {unknown_key(f'decoder.{unknown[0]}', given[unknown[0]], list(known), 'segmentation')}"
        )
    for key, value in given.items():
        if not _takes(known[key], value):
            raise ValueError(f"decoder.{key} must be {_described(known[key])} for {name}, got {value!r}")
    options = {key: given[_short(key)] for key in _hints(network, name) if _short(key) in given}
    encoder = Encoder(architecture, arguments, _USED.get(name))
    depth = len(encoder.order)
    if name == "unet":
        # as in segmentation-models-pytorch, for any number of maps
        options.setdefault("decoder_channels", [max(16, 256 >> i) for i in range(depth)])
    else:
        # logits are upsampled once, to the size of the image
        options["upsampling"] = 1
    given_as = ", ".join(f"decoder.{key}={value!r}" for key, value in given.items()) or "decoder"
    smp.encoders.encoders[_ENCODER] = {"encoder": lambda **_: encoder, "params": {}}
    try:
        common = {"encoder_name": _ENCODER, "encoder_weights": None, "encoder_depth": depth}
        net = blaming(given_as, network, classes=len(classes), in_channels=encoder.out_channels[0], **common, **options)
    finally:
        del smp.encoders.encoders[_ENCODER]
    blaming(given_as, _try_decoder, net)
    return Segmenter(net, name == "unet", preprocessing, classes, architecture)


def _try_decoder(net: Any) -> None:
    """Runs a decoder on the maps of a small image: some options are first used there.

    Raises:
        ValueError: the decoder does not take one.
    """
    encoder, decoder = net.encoder, net.decoder
    side, was_training = 2 * encoder.output_stride, decoder.training
    sizes = [side // min(2**i, encoder.output_stride) for i in range(len(encoder.out_channels))]
    try:
        with torch.no_grad():
            shapes = zip(encoder.out_channels, sizes, strict=True)
            decoder.eval()([torch.zeros(1, channels, size, size) for channels, size in shapes])
    except RuntimeError as error:
        raise ValueError(str(error)) from error
    finally:
        decoder.train(was_training)


def _hints(network: Callable[..., Any], name: str) -> dict[str, Any]:
    """The types of the arguments of a network that are keys of `decoder`."""
    hints = get_type_hints(network.__init__ if inspect.isclass(network) else network)
    own = ("encoder_output_stride",) if name == "deeplabv3plus" else ()
    names = inspect.signature(network).parameters
    return {key: hints.get(key, Any) for key in names if key.startswith("decoder_") or key in own}


def _short(argument: str) -> str:
    return argument.removeprefix("decoder_").removeprefix("encoder_")


def _takes(hint: Any, value: Any) -> bool:
    """Returns whether a value has the type of an argument; the integers are numbers of channels and the like."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_takes(one, value) for one in inner)
    if origin is Literal:
        return value in inner
    if origin in (Sequence, Iterable, list, tuple):
        return isinstance(value, (list, tuple)) and all(_takes(inner[0], x) for x in value)
    if hint is int:
        return type(value) is int and value >= 1
    if hint is float:
        return is_number(value)
    kind = origin or hint
    return not inspect.isclass(kind) or isinstance(value, kind)


def _described(hint: Any) -> str:
    """What `_takes` takes, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_described, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (Sequence, Iterable, list, tuple):
        return f"a list in which each entry is {_described(inner[0])}"
    words = {int: "an integer of at least 1", float: "a number", bool: "True or False", str: "text", dict: "a dict"}
    return {**words, NoneType: "None"}.get(origin or hint, str(hint))
