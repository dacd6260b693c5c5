"""Our weights under the names and shapes of others: the inverse of a checkpoint filter, read off the filter.

A filter renames, joins, splits, permutes and reshapes tensors, so every element of our tensors is an element of theirs.
Given tensors with the names and shapes of others that hold the number of each of their elements, a filter returns, in
our names and shapes, where each of our elements belongs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attnzoo.base import Filter


def restored(
    weights: Mapping[str, Tensor], network: nn.Module, read: Filter, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor]:
    """Returns weights of ours under other names, in the order of `shapes`; what a filter leaves out is not returned.

    Args:
        weights: the state dict of `network`.
        network: the network, for `read`.
        read: converts weights with the other names and shapes to ours.
        shapes: the other names, with the shapes of the tensors.

    Raises:
        ValueError: the other names and shapes are not those of the network, which the message says in our names.
    """
    starts = [0]
    for shape in shapes.values():
        starts.append(starts[-1] + shape.numel())
    numbers = torch.arange(starts[-1], dtype=torch.int32)
    pieces = numbers.split([shape.numel() for shape in shapes.values()])
    theirs = {name: piece.reshape(shapes[name]) for name, piece in zip(shapes, pieces, strict=True)}
    places = read(dict(theirs), network)
    _check(places, weights)

    names = list(shapes)
    result: dict[str, Tensor] = {}
    counts = dict.fromkeys(names, 0)
    for name, tensor in weights.items():
        place, values = places[name].flatten().long(), tensor.detach().flatten()
        while len(place):
            owner = bisect_right(starts, int(place[0])) - 1
            # most tensors consist of the elements of one
            mine = (place >= starts[owner]) & (place < starts[owner + 1])
            target, is_whole = names[owner], bool(mine.all())
            # an element that is written twice is noticed by the last check
            written = result.setdefault(target, tensor.new_empty(shapes[target]))
            chosen = slice(None) if is_whole else mine
            written.view(-1)[place[chosen] - starts[owner]] = values[chosen]
            counts[target] += len(place[chosen])
            place, values = (place[:0], values) if is_whole else (place[~mine], values[~mine])
    if any(counts[name] != shapes[name].numel() for name in result):
        raise ValueError(f"{_interpolated(places)} has another size there")
    result = {name: result[name] for name in names if name in result}
    _check_same(read(dict(result), network), weights)
    return result


def _check(found: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if name not in found:
            raise ValueError(f"there is no tensor for {name}")
        if found[name].shape != tensor.shape:
            raise ValueError(f"{name} is {tuple(tensor.shape)} here and {tuple(found[name].shape)} there")
    more = [name for name in found if name not in weights]
    if more:
        raise ValueError(f"the network has no {more[0]}")


def _interpolated(places: Mapping[str, Tensor]) -> str:
    """Returns the first of our tensors that has an element of theirs more than once, or else the first."""
    return next((name for name, place in places.items() if len(place.unique()) < place.numel()), next(iter(places)))


def _check_same(found: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    for name, tensor in weights.items():
        if not torch.equal(found[name], tensor):
            raise ValueError(f"{name} would not be read back as it is")
