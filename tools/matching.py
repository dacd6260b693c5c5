"""Comparison of the weights in a file with those of a network."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from .cli import MultilineError
from .weights import LISTED

# types of weights; those of 8 bits need a scale
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_match(file: str, model: str, network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Compares the names, shapes and types of weights with those of a network.

    Raises:
        MultilineError: they differ; lists the tensors that are missing, unexpected, of another shape, integers in place
            of floating point numbers, or not finite.
    """
    expected = network.state_dict()
    missing = [f"{name} {_shape(expected[name])}" for name in expected if name not in weights]
    unexpected = [f"{name} {_shape(weights[name])}" for name in weights if name not in expected]
    other_shape = [
        f"{name} is {_shape(weights[name])} in the file, {_shape(expected[name])} in the model"
        for name in expected
        if name in weights and weights[name].shape != expected[name].shape
    ]
    numbers = {name: weights[name] for name, own in expected.items() if name in weights and own.is_floating_point()}
    kinds = {
        "missing from the file": missing,
        "not in the model": unexpected,
        "of another shape": other_shape,
        "of another type": [
            f"{name} is {_type(x)} in the file" for name, x in numbers.items() if x.dtype not in FLOATS
        ],
        "not finite": [name for name, x in numbers.items() if x.dtype in FLOATS and not x.isfinite().all()],
    }
    if not any(kinds.values()):
        return
    counts = ", ".join(f"{len(tensors)} {kind}" for kind, tensors in kinds.items() if tensors)
    lines = [
        f"{file} is not a checkpoint of {model}, which has {len(expected)} tensors: {counts} (names as in attnzoo)"
    ]
    for kind, tensors in kinds.items():
        if tensors:
            lines += [f"{kind}:", *(f"  {tensor}" for tensor in tensors[:LISTED])]
        if len(tensors) > LISTED:
            lines.append(f"  and {len(tensors) - LISTED} more")
    raise MultilineError("\n".join(lines))


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"
