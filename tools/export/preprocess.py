"""Preprocessing inside the file: it takes decoded uint8 images (B, H, W, C) instead of normalised ones.

Resizing and cropping stay outside, because they depend on the size of each image.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Colours:
    """Mean and standard deviation of each channel, for images in the range 0 .. 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, notes: Mapping[str, str], channels: int) -> Colours:
        """Reads mean and std from the metadata of a file.

        Raises:
            ValueError: the metadata has none.
        """
        if "mean" not in notes or "std" not in notes:
            raise ValueError(
                "preprocess needs the mean and std of the images, but the model has none because it is not a timm "
                "model: pass them as metadata, as JSON lists"
            )
        mean, std = ([float(x) for x in json.loads(notes[key])] for key in ("mean", "std"))
        # a single number is used for all channels
        return cls(*(tuple(x * channels if len(x) == 1 else x) for x in (mean, std)))

    def pictures(self, images: Tensor) -> Tensor:
        """Inverts the normalisation, rounding to uint8: float32 (B, C, H, W) -> uint8 (B, H, W, C)."""
        mean, std = (torch.tensor(x)[:, None, None] for x in (self.mean, self.std))
        colours = (images * std + mean).mul_(255).round_().clamp_(0, 255)
        # (B, C, H, W) -> (B, H, W, C)
        return colours.to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class Normalise(nn.Module):
    """Normalises uint8 images as timm's transforms do; the nodes of `take_pictures` are compared with it.

    Args:
        colours: mean and std.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, colours: Colours) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(colours.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(colours.std)[:, None, None])

    def forward(self, pictures: Tensor) -> Tensor:
        """Uint8 (B, H, W, C) -> float32 (B, C, H, W)."""
        images = pictures.permute(0, 3, 1, 2).to(torch.float32).div(255)
        normalised: Tensor = (images - self.mean) / self.std
        return normalised


def take_pictures(proto: Any, colours: Colours) -> None:
    """Adds preprocessing to the start of a graph: its input `images` becomes uint8 (B, H, W, C), 0 .. 255.

    Args:
        proto: a `ModelProto` with the input `images`, float32 (B, C, H, W).
        colours: mean and std.
    """
    from onnx import TensorProto, helper, numpy_helper

    graph = proto.graph
    source = next(entry for entry in graph.input if entry.name == "images")
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name == "images":
                node.input[i] = "preprocess/images"
    tensor = source.type.tensor_type
    batch, channels, height, width = (_copy(size) for size in tensor.shape.dim)
    tensor.elem_type = TensorProto.UINT8
    del tensor.shape.dim[:]
    tensor.shape.dim.extend([batch, height, width, channels])

    # pixels range over 0 .. 255 here, so that one division does for both scales
    values = {"mean": np.array(colours.mean) * 255, "std": np.array(colours.std) * 255}
    for key, value in values.items():
        graph.initializer.append(numpy_helper.from_array(value.astype(np.float32), f"preprocess/{key}"))
    steps = [
        ("Cast", ["images"], "float", {"to": TensorProto.FLOAT}),
        ("Sub", ["preprocess/float", "preprocess/mean"], "centred", {}),
        ("Div", ["preprocess/centred", "preprocess/std"], "scaled", {}),
        ("Transpose", ["preprocess/scaled"], "images", {"perm": [0, 3, 1, 2]}),
    ]
    nodes = [
        helper.make_node(kind, inputs, [f"preprocess/{output}"], name=f"preprocess/{kind}", **attributes)
        for kind, inputs, output, attributes in steps
    ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _copy(size: Any) -> Any:
    copied = type(size)()
    copied.CopyFrom(size)
    return copied
