"""The proof that two networks compute the same, on an image of random numbers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def copied(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Returns a copy of a network on the CPU, in evaluation mode.

    Raises:
        ValueError: it holds something that cannot be copied, such as an open file in a hook.
    """
    try:
        other = copy.deepcopy(model)
    # raised by whatever refuses to be copied
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"accelerate cannot check this network, of which there is no copy: {reason}") from error
    other = other.to("cpu", dtype).eval()
    config: Any = getattr(other, "config", None)
    if hasattr(config, "return_dict"):
        # transformers' own type of outputs, which have names
        config.return_dict = True
    return other


def image(channels: int, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Returns the image (1, channels, rows, columns); it does not depend on torch's global random numbers."""
    return torch.randn(1, channels, *size, generator=_generator(), device="cpu", dtype=torch.float64).to(dtype)


@torch.no_grad()
def enliven(model: nn.Module) -> None:
    """Replaces, in place, what initialization sets to a constant, so that every layer contributes to the output.

    Layer scales and the last norms of branches are near zero at first, and hide all of a branch.
    """
    generator = _generator()
    for name, tensor in _tensors(model):
        if tensor.is_floating_point() and tensor.numel() > 1 and (tensor == tensor.flatten()[0]).all():
            low, high = (-0.1, 0.1) if name.endswith((".bias", ".running_mean")) else (0.5, 1.5)
            tensor.uniform_(low, high, generator=generator)


@torch.no_grad()
def difference(theirs: nn.Module, ours: nn.Module, images: Tensor) -> float:
    """Returns the largest difference of the outputs, relative to the largest value.

    Raises:
        ValueError: the outputs have other shapes, or their network fails.
    """
    with torch.autocast("cpu", enabled=False):
        try:
            wanted = _outputs(theirs(images))
        except Exception as error:
            size = "x".join(map(str, images.shape[2:]))
            raise ValueError(
                f"accelerate cannot check this network, which fails for an image of {size}: {error}"
            ) from error
        found = _outputs(ours(images))
    shapes = [[tuple(x.shape) for x in outputs] for outputs in (wanted, found)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"accelerate cannot express this network: its outputs have shapes {shapes[0]}, not {shapes[1]}"
        )
    largest = 0.0
    for a, b in zip(wanted, found, strict=True):
        relative = ((a - b).abs().max() / a.abs().max().clamp(min=torch.finfo(a.dtype).tiny)).item()
        # not a number is the largest difference
        largest = relative if not relative <= largest else largest
    return largest


def _outputs(result: Any) -> list[Tensor]:
    """Returns the output of a network, or what a network of transformers has instead of a tensor."""
    if isinstance(result, Tensor):
        return [result]
    for name in ("logits", "pooler_output", "last_hidden_state"):
        if getattr(result, name, None) is not None:
            return [getattr(result, name)]
    return list(result)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from model.named_parameters()
    yield from model.named_buffers()


def _generator() -> torch.Generator:
    return torch.Generator("cpu").manual_seed(0)
