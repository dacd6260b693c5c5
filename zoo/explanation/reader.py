"""Computes weights from what recorders have kept."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .maps import UnknownLayoutError, proportional
from .readings import Factors, Gate, Shared, Values, softmax_weights
from .recorder import Recorder


class Reader:
    """The weights of a layer, or of the parts of one.

    Args:
        network: the network, which knows its class tokens and the map of its tokens.
        recorders: one for each part of the layer, by name.
        batch: number of images.
        size: (rows, columns) of the images.
    """

    def __init__(self, network: Any, recorders: Mapping[str, Recorder], batch: int, size: tuple[int, int]) -> None:
        self.recorders = recorders
        self.batch = batch
        self.size = size
        # a wrapper for features holds the network
        counts = (getattr(module, "num_prefix_tokens", 0) for module in network.modules())
        self.prefix = int(next(filter(None, counts), 0))
        embedding: Any = next((x.patch_embed for x in network.modules() if hasattr(x, "patch_embed")), None)
        # timm's networks of tokens
        self.grid: tuple[int, int] | None = None
        if hasattr(embedding, "dynamic_feat_size"):
            self.grid = tuple(embedding.dynamic_feat_size(size))

    @property
    def kind(self) -> str:
        """The kind of the explanation."""
        reading = next(iter(self.recorders.values())).reading
        if isinstance(reading, Values):
            return "channels" if reading.over_channels else "attention"
        return "shared" if isinstance(reading, Shared) else "gate"

    def read(self, query: tuple[int, int] | None) -> dict[str, Any]:
        """Returns the attributes of an `Explanation` for a query in pixels."""
        found = {name: self._read(recorder, query) for name, recorder in self.recorders.items()}
        first = next(iter(found.values()))
        if len(found) == 1:
            return first
        # a part may see padding, which is cut off
        rows, columns = (min(entry["weights"].shape[axis] for entry in found.values()) for axis in (2, 3))
        parts = {name: entry["weights"][:, :, :rows, :columns] for name, entry in found.items()}
        weights = torch.cat(list(parts.values()), 1)
        total = torch.cat([entry["outside"] + entry["weights"].sum((2, 3)) for entry in found.values()], 1)
        return {**first, "weights": weights, "outside": total - weights.sum((2, 3)), "parts": parts}

    def _read(self, recorder: Recorder, query: tuple[int, int] | None) -> dict[str, Any]:
        reading = recorder.reading
        if isinstance(reading, Shared):
            assert recorder.given is not None
            with torch.no_grad():
                weights = reading.weights(recorder.layer, recorder.given)
            return {"weights": weights, "outside": weights.new_zeros(weights.shape[:2])}
        assert recorder.sums is not None
        if isinstance(reading, Factors):
            return {"channels": recorder.sums.detach().flatten(1)}
        if isinstance(reading, Gate):
            return _factors(recorder, reading)
        if reading.over_channels:
            return {"channels": _received(recorder, reading)}
        return self._attention(recorder, reading, query)

    def _attention(self, recorder: Recorder, reading: Values, query: tuple[int, int] | None) -> dict[str, Any]:
        sums = recorder.sums
        assert sums is not None
        prefix = self.prefix
        if reading.of_latents:
            query, prefix = None, reading.prefix
        size = recorder.size or self.grid or proportional(recorder.values[0].shape[1] - prefix, self.size)
        grid = _grid(sums, reading, size)
        if len(sums) != self.batch or (sums.ndim == 3 and not reading.of_latents and sums.shape[1] < math.prod(grid)):
            raise UnknownLayoutError(
                f"{type(recorder.layer).__name__} attends within parts of the map here, which explain does not know"
            )
        place = None if query is None else tuple(q * n // s for q, n, s in zip(query, grid, self.size, strict=True))
        chosen = self._chosen(sums, reading, place, size)
        gradients = torch.autograd.grad(sums, recorder.values, chosen, retain_graph=True)
        of_keys = [_by_head(gradient, recorder, reading) for gradient in gradients]
        on_map = [
            self._on_map(weights, gradient, reading, recorder, size)
            for weights, gradient in zip(of_keys, gradients, strict=True)
        ]
        weights = torch.stack(on_map).sum(0)
        # keys of padding need not be among the values
        total = 1 if reading.is_softmax else sum(weights.sum(2) for weights in of_keys)
        found = {"query": place, "weights": weights, "outside": total - weights.sum((2, 3))}
        return found | (self._of_agents(recorder, place, size) if reading.agents else {})

    def _chosen(self, sums: Tensor, reading: Values, place: tuple[int, ...] | None, size: tuple[int, int]) -> Tensor:
        """Returns the gradient of the sums of one position, or of the mean of all, with respect to all sums."""
        chosen = torch.zeros_like(sums)
        # (B, positions, C)
        flat = chosen.flatten(2).transpose(1, 2) if reading.channels_first else chosen.flatten(1, -2)
        if place is not None:
            columns = _grid(sums, reading, size)[1]
            flat[:, self._prefix_of(sums, reading) + place[0] * columns + place[1]] = 1
        elif self._prefix_of(sums, reading) and not reading.of_latents:
            flat[:, 0] = 1
        else:
            flat.fill_(1 / flat.shape[1])
        return chosen

    def _prefix_of(self, x: Tensor, reading: Values) -> int:
        """Returns the number of tokens before those of the map in x; maps have none."""
        return 0 if x.ndim == 4 else reading.prefix if reading.of_latents else self.prefix

    def _on_map(
        self, of_keys: Tensor, gradient: Tensor, reading: Values, recorder: Recorder, size: tuple[int, int]
    ) -> Tensor:
        """Weights of all keys (B, h, keys) -> weights on the map of the layer's input (B, h, rows, columns)."""
        rows, columns = _grid(gradient, reading, size)
        prefix = self._prefix_of(gradient, reading)
        weights = of_keys[:, :, prefix : prefix + rows * columns].unflatten(2, (rows, columns))
        cell = int(getattr(recorder.layer, reading.cell)) if reading.cell else 0
        for axis, length in ((2, size[0]), (3, size[1])):
            weights = _spread(weights, axis, length, cell)
        return weights

    def _of_agents(self, recorder: Recorder, place: tuple[int, ...] | None, size: tuple[int, int]) -> dict[str, Tensor]:
        (agents, keys, to_keys), (queries, _, to_agents) = recorder.products
        with torch.no_grad():
            prefix = keys.shape[2] - size[0] * size[1]
            of_agents = softmax_weights(agents, keys, to_keys)[..., prefix:].unflatten(3, size)
            of_queries = softmax_weights(queries, agents, to_agents)
        if place is not None:
            row = of_queries[:, :, prefix + place[0] * size[1] + place[1]]
        else:
            row = of_queries[:, :, 0] if prefix else of_queries.mean(2)
        return {"agents": of_agents, "to_agents": row}


def _grid(x: Tensor, reading: Values, size: tuple[int, int]) -> tuple[int, int]:
    """Returns the size of the map of x; tokens have that of the layer."""
    if x.ndim == 3:
        return size
    return (x.shape[2], x.shape[3]) if reading.channels_first else (x.shape[1], x.shape[2])


def _by_head(gradient: Tensor, recorder: Recorder, reading: Values) -> Tensor:
    """Gradients of a source of values -> (B, h, keys): within a head, all channels have the same weights."""
    flat = gradient.flatten(2) if reading.channels_first else gradient.flatten(1, -2).transpose(1, 2)
    of_values = flat[:, recorder.mask(reading.part, gradient).flatten()]
    return of_values.unflatten(1, (reading.heads(recorder.layer), -1)).mean(2)


def _spread(weights: Tensor, axis: int, length: int, cell: int) -> Tensor:
    """Spreads the weights of keys over the pixels that they stand for, along an axis of the map.

    Args:
        weights: (B, h, rows, columns) of the keys.
        axis: 2 or 3.
        length: pixels of the map.
        cell: pixels of a key; 0 for as many as the numbers imply. Keys beyond the map are padding and are cut off.
    """
    keys = weights.shape[axis]
    if keys >= length and cell <= 1:
        return weights.narrow(axis, 0, length)
    pixels = torch.arange(length, device=weights.device)
    key = pixels // cell if cell else pixels * keys // length
    # incomplete cells at the end may have no key
    inside = key < keys
    counts = torch.bincount(key[inside], minlength=keys) if not cell else torch.full_like(pixels, cell)[:keys]
    shape = [1] * weights.ndim
    shape[axis] = -1
    shares = weights / counts.to(weights.dtype).view(shape)
    return shares.index_select(axis, key.clamp(max=keys - 1)) * inside.view(shape)


def _received(recorder: Recorder, reading: Values) -> Tensor:
    """Returns the mean attention that each channel receives from those of its head, (B, C), 1 in total per head."""
    assert recorder.sums is not None
    (gradient,) = torch.autograd.grad(recorder.sums, recorder.values, torch.ones_like(recorder.sums), retain_graph=True)
    # the same at all positions
    received = gradient[..., recorder.mask(reading.part, gradient)].flatten(1, -2).mean(1)
    return received / (received.shape[1] // reading.heads(recorder.layer))


def _factors(recorder: Recorder, reading: Gate) -> dict[str, Tensor]:
    """Returns the factors of positions and of channels, the least squares solution of product = factor * input."""
    given, product = recorder.given, recorder.sums
    assert given is not None
    assert product is not None
    if not reading.channels_first:
        given, product = given.permute(0, 3, 1, 2), product.permute(0, 3, 1, 2)
    given, both = given.detach().float(), product.detach().float() * given.detach().float()
    square = given.square()
    least = torch.finfo(square.dtype).tiny
    weights = both.sum(1, keepdim=True) / square.sum(1, keepdim=True).clamp(min=least)
    channels = both.sum((2, 3)) / square.sum((2, 3)).clamp(min=least)
    return {"weights": weights, "channels": channels, "outside": torch.zeros_like(weights[:, :, 0, 0])}
