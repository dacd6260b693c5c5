"""`explain`: what a position of a network attends to."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .grad_cam import cam_and_layer
from .maps import UnknownLayoutError, scaled
from .reader import Reader
from .readings import READINGS, Compound, Factors, Gate
from .recorder import Recorder, record


class Explanation:
    """What a layer attends to, for one query; `at` returns the same for another query without a forward pass.

    It keeps the graph of one layer until it is deleted.

    Attributes:
        layer: name of the layer; for `grad_cam` that of the map, `features` for the output of `forward_features`.
        kind: `attention`; `channels` for attention between channels; `gate` for a layer that multiplies its input;
            `shared` for a layer whose queries all read the same sum; `grad_cam` if the network has no attention that
            is known.
        query: (row, column) on the map of the queries; None for the class token or, without one, the mean of all.
        weights: (B, heads, rows, columns) on the map of the layer's input, and what each position contributes to the
            query: for softmax attention at least 0, with a sum of 1 with `outside`. For a gate, the factor of each
            position, with one head. None for `channels` and where only channels have factors.
        outside: (B, heads), the sum of the weights of class tokens and padding.
        channels: (B, C), for channels the mean attention that each receives, for gates the factor; None otherwise.
        agents: (B, heads, agents, rows, columns), what each agent attends to; None for layers without agents.
        to_agents: (B, heads, agents), how the query weights the agents; None for layers without agents.
        parts: the weights of each attention of a layer that has several, by name.
        size: (rows, columns) of the images.
    """

    def __init__(
        self,
        layer: str,
        kind: str,
        size: tuple[int, int],
        read: Callable[[tuple[int, int] | None], dict[str, Any]],
        query: tuple[int, int] | None,
    ) -> None:
        self.layer = layer
        self.kind = kind
        self.size = size
        self._read = read
        _check_query(query, size)
        found = read(query)
        self.query: tuple[int, int] | None = found.get("query")
        self.weights: Tensor | None = found.get("weights")
        self.outside: Tensor | None = found.get("outside")
        self.channels: Tensor | None = found.get("channels")
        self.agents: Tensor | None = found.get("agents")
        self.to_agents: Tensor | None = found.get("to_agents")
        self.parts: dict[str, Tensor] = found.get("parts", {})

    def at(self, query: tuple[int, int] | None) -> Explanation:
        """Returns the explanation of another query, (row, column) in pixels of the images.

        Raises:
            ValueError: the query is outside of the images.
        """
        return Explanation(self.layer, self.kind, self.size, self._read, query)

    def on_images(self) -> Tensor:
        """Returns the weights, averaged over heads and interpolated to the images, (B, H, W), each at most 1.

        Raises:
            ValueError: the layer weights channels only.
        """
        if self.weights is None:
            raise ValueError(f"{self.layer} weights channels, not positions: see `channels`")
        mean = self.weights.float().mean(1, keepdim=True)
        return scaled(F.interpolate(mean, self.size, mode="bilinear").squeeze(1))

    def __repr__(self) -> str:
        shape = None if self.weights is None else tuple(self.weights.shape)
        return f"Explanation({self.layer!r}, kind={self.kind!r}, query={self.query}, weights={shape})"


def attention_layers(model: nn.Module, *, of_positions: bool = False) -> list[str]:
    """Returns the names of the layers that `explain` knows, in the order of the model; not those inside another.

    Args:
        model: a network.
        of_positions: leave out attention between channels, and gates.
    """
    found: list[str] = []
    # where other layers attend to latents
    only = getattr(model, "attention_to_images", None)
    for name, module in model.named_modules():
        reading = READINGS.get(type(module))
        if reading is None or (only is not None and name not in only) or (found and name.startswith(f"{found[-1]}.")):
            continue
        if not of_positions or not (isinstance(reading, Gate | Factors) or getattr(reading, "over_channels", False)):
            found.append(name)
    return found


def explain(
    model: nn.Module,
    images: Tensor,
    layer: str | int | None = None,
    query: tuple[int, int] | None = None,
) -> Explanation:
    """Returns what a position of a layer attends to.

    The weights are those of the layer itself: derivatives of its output with respect to its values, with everything
    else held constant. For linear and additive attention they are the weights that its formula implies. It runs one
    forward pass, up to the layer, and leaves the model as it was: its mode, gradients, hooks and parameters. The model
    must not be used by another thread at the same time.

    Args:
        model: a network of this project or of timm, in any mode; wrappers of compilers and parallel training are
            looked through. A network without attention, such as a CNN, is explained by Grad-CAM of its predicted class;
            so is, with a warning, one whose last attention reads no map of the images, unless a layer is named.
        images: (B, in_chans, H, W), preprocessed, on the device of the model.
        layer: name of the layer, or its index among `attention_layers(model)`; None for the last one.
        query: (row, column) in pixels of the images; None for the class token, or for the mean of all positions in
            networks without one.

    Returns:
        The explanation; see `Explanation`.

    Raises:
        TypeError: `model` is not a network of torch.
        ValueError: the layer is unknown, or the query is outside of the images.

    Example:
        >>> found = attnzoo.explain(model, images, layer=1, query=(112, 112))
        >>> found.weights.shape
        torch.Size([1, 2, 56, 56])
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if images.ndim != 4:
        raise ValueError(f"images must be (B, channels, H, W), got {tuple(images.shape)}")
    network = _unwrapped(model)
    size = images.shape[2], images.shape[3]
    if any(x.is_inference() for x in network.parameters()):
        raise ValueError(
            "the model was created in torch.inference_mode(), which allows no derivatives: create it outside"
        )
    _check_query(query, size)
    names = attention_layers(network)
    if not names:
        if layer is not None:
            raise ValueError(f"{type(network).__name__} has no attention, only Grad-CAM: leave out the layer")
        return _by_grad_cam(network, images)
    name = _named(network, names, layer)
    try:
        return _of_layer(network, images, name, query)
    except UnknownLayoutError as error:
        if layer is not None:
            raise
        warnings.warn(f"{name}: {error}; this is Grad-CAM instead", stacklevel=2)
        return _by_grad_cam(network, images)


def _by_grad_cam(network: nn.Module, images: Tensor) -> Explanation:
    with torch.inference_mode(False):
        cam, layer = cam_and_layer(network, images.clone())
    size = images.shape[2], images.shape[3]
    return Explanation(layer, "grad_cam", size, lambda query: {"weights": cam.unsqueeze(1)}, None)


def _of_layer(network: nn.Module, images: Tensor, name: str, query: tuple[int, int] | None) -> Explanation:
    size = images.shape[2], images.shape[3]
    recorders = _recorders(network.get_submodule(name))
    with torch.inference_mode(False):
        # a clone of a tensor made in inference mode has derivatives
        record(network, images.clone(), list(recorders.values()))
    reader = Reader(network, recorders, len(images), size)
    return Explanation(name, reader.kind, size, reader.read, query)


def _recorders(layer: nn.Module) -> dict[str, Recorder]:
    """Returns a recorder for each attention of a layer, by name."""
    reading = READINGS[type(layer)]
    if not isinstance(reading, Compound):
        return {"": Recorder(layer, reading)}
    parts = {name: part for name, part in layer.named_children() if name in reading.parts}
    return {name: recorder for name, part in parts.items() for recorder in _recorders(part).values()}


def _unwrapped(model: Any) -> nn.Module:
    while True:
        inner = next((getattr(model, name) for name in ("module", "_orig_mod") if hasattr(model, name)), None)
        if not isinstance(inner, nn.Module):
            network: nn.Module = model
            return network
        model = inner


def _named(network: nn.Module, names: list[str], layer: str | int | None) -> str:
    if layer is None:
        return names[-1]
    if isinstance(layer, bool) or not isinstance(layer, (int, str)):
        raise ValueError(f"layer must be the name or the index of an attention layer, got {layer!r}")
    if isinstance(layer, int):
        if not -len(names) <= layer < len(names):
            raise ValueError(f"layer must be {-len(names)} .. {len(names) - 1}, got {layer}: there are {len(names)}")
        return names[layer]
    known = {name for name, module in network.named_modules() if type(module) in READINGS}
    if layer not in known:
        near = difflib.get_close_matches(layer, names, cutoff=0.4) or names[:3]
        raise ValueError(f"no attention layer {layer!r}: the nearest names are {', '.join(near)}")
    return layer


def _check_query(query: tuple[int, int] | None, size: tuple[int, int]) -> None:
    if query is None:
        return
    if (
        not isinstance(query, (tuple, list))
        or len(query) != 2
        or any(type(place) is not int for place in query)
        or not (0 <= query[0] < size[0] and 0 <= query[1] < size[1])
    ):
        raise ValueError(
            f"query must be (row, column), integers within images of {size[0]} x {size[1]} pixels, got {query}"
        )
