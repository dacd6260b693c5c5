"""Comparison of a file of lower precision with float32, and the limits for keeping it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..graphs import ExportError
from ..sessions import run

# float16 has eleven significant bits: the relative error of a map is up to 5e-4, and adds up over tens of layers
_HALF_DIFFERENCE = 1e-2
# limit without classes to compare: feature maps with an error of a fifth of the signal are of no use
_WORST_ERROR = 0.2


@dataclass(frozen=True)
class Fidelity:
    """Comparison of a file of lower precision with the same file in float32.

    Attributes:
        difference: largest difference, relative to the largest value of an output; infinite if a value is not finite.
        error: root mean square of the difference, relative to the root mean square of the output.
        agreement: share of the images, or of their pixels, whose largest logit is the same, 0 .. 1; None without
            logits.
        images: number of images compared.
        has_floats: there are floating-point outputs; without them, difference and error are 0.
    """

    difference: float
    error: float
    agreement: float | None
    images: int
    has_floats: bool = True

    def __str__(self) -> str:
        if not self.has_floats and self.agreement is not None:
            return f"has the class of float32 at {self.agreement:.2%} of the pixels of {self.images} images"
        said = f"differs from float32 by at most {self.difference:.1e}, {self.error:.1e} on average"
        if self.agreement is not None:
            said += f", and has the same top class on {self.agreement:.2%} of {self.images} images"
        return said

    def require(self, precision: str, least_agreement: float) -> None:
        """Rejects a file that is too far from float32.

        Raises:
            ExportError: the file is too far from float32.
        """
        hint = "the file was not kept. --precision fp32 always works"
        if not self.difference < float("inf"):
            raise ExportError(f"in {precision} an output is not finite, and {hint}")
        if self.agreement is not None and self.agreement < least_agreement:
            raise ExportError(
                f"in {precision} the file has the top class of float32 on {self.agreement:.1%} of {self.images} "
                f"images, but at least {least_agreement:.1%} is required (--least-agreement), and {hint}"
            )
        if precision == "fp16" and self.difference > _HALF_DIFFERENCE:
            raise ExportError(
                f"in fp16 the outputs differ from float32 by {self.difference:.1e} of the largest value, but at most "
                f"{_HALF_DIFFERENCE:.0e} is allowed, and {hint}"
            )
        if self.agreement is None and self.error > _WORST_ERROR:
            raise ExportError(
                f"in {precision} the relative error of the outputs is {self.error:.0%}, but at most "
                f"{_WORST_ERROR:.0%} is allowed, and {hint}"
            )


Answers = Sequence[Mapping[str, Tensor]]


def answers_of(session: Any, batches: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """Runs a file on batches; returns the outputs of each batch by name."""
    return [run(session, images) for images in batches]


def compare(given: Answers, expected: Answers) -> Fidelity:
    """Compares the outputs of two files for the same images.

    Args:
        given: outputs of the file of lower precision.
        expected: outputs of the file in float32.
    """
    names = [name for name, values in expected[0].items() if values.is_floating_point()]
    difference = error = 0.0
    agreement = None
    for name in names:
        # batches may have different image sizes: each is compared separately
        values = [(a[name].double(), b[name].double()) for a, b in zip(given, expected, strict=True)]
        largest = max(b.abs().max().item() for _, b in values) or 1.0
        apart = max(_largest_difference(a, b) for a, b in values)
        difference = max(difference, apart / largest)
        squares = sum((a - b).square().sum().item() for a, b in values)
        signal = sum(b.square().sum().item() for _, b in values)
        error = max(error, (squares / signal) ** 0.5 if signal and squares == squares else float("inf"))
    pairs = [(_classes(a), _classes(b)) for a, b in zip(given, expected, strict=True)]
    same = [a.eq(b).flatten() for a, b in pairs if a is not None and b is not None]
    if same:
        agreement = torch.cat(same).double().mean().item()
    images = sum(len(next(iter(answer.values()))) for answer in expected)
    return Fidelity(difference, error, agreement, images, has_floats=bool(names))


def _classes(answer: Mapping[str, Tensor]) -> Tensor | None:
    """The class of each image or pixel; None for outputs that are no classes."""
    return answer["logits"].argmax(1) if "logits" in answer else answer.get("mask")


def _largest_difference(given: Tensor, expected: Tensor) -> float:
    if given.shape != expected.shape or not given.isfinite().all():
        return float("inf")
    return (given - expected).abs().max().item()
