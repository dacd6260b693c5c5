"""How much of a model is left in a file of lower precision, and whether that is enough to keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..graphs import ExportError
from ..sessions import run

# float16 keeps eleven bits: each map is off by up to 5e-4 of itself, and tens of layers add up to several times that
_HALF_DIFFERENCE = 1e-2
# without classes to agree on: an error of a fifth of the signal leaves maps of no use
_WORST_ERROR = 0.2


@dataclass(frozen=True)
class Fidelity:
    """What a file of lower precision gives beside one in float32.

    Attributes:
        difference: the largest, as a share of the largest number of an output; infinite where one is not a number.
        error: root of the mean square of the difference, as a share of that of the output.
        agreement: share of the images whose largest logit is the same, 0 .. 1; None where there are no logits.
        images: number of images compared.
    """

    difference: float
    error: float
    agreement: float | None
    images: int

    def __str__(self) -> str:
        said = f"differs from float32 by at most {self.difference:.1e}, {self.error:.1e} on average"
        if self.agreement is not None:
            said += f", and agrees on the class of {self.agreement:.2%} of {self.images} images"
        return said

    def require(self, precision: str, least_agreement: float) -> None:
        """Refuses a file that is too far from float32.

        Raises:
            ExportError: says what is wrong with it.
        """
        hint = "the file was not kept. --precision fp32 always works"
        if not self.difference < float("inf"):
            raise ExportError(f"in {precision} the model gives what is no number, and {hint}")
        if self.agreement is not None and self.agreement < least_agreement:
            raise ExportError(
                f"in {precision} the file agrees with float32 on the class of {self.agreement:.1%} of {self.images} "
                f"images, at least {least_agreement:.1%} are asked for (--least-agreement), and {hint}"
            )
        if precision == "fp16" and self.difference > _HALF_DIFFERENCE:
            raise ExportError(
                f"in fp16 the answers differ from float32 by {self.difference:.1e} of the largest, "
                f"{_HALF_DIFFERENCE:.0e} is allowed, and {hint}"
            )
        if self.agreement is None and self.error > _WORST_ERROR:
            raise ExportError(
                f"in {precision} the answers are off by {self.error:.0%} of their size, {_WORST_ERROR:.0%} is allowed, "
                f"and {hint}"
            )


Answers = Sequence[Mapping[str, Tensor]]


def answers_of(session: Any, batches: Sequence[Tensor]) -> list[dict[str, Tensor]]:
    """What a file gives for each of some batches, by the names of its outputs."""
    return [run(session, images) for images in batches]


def compare(given: Answers, expected: Answers) -> Fidelity:
    """Two files' answers to the same images.

    Args:
        given: of the file of lower precision.
        expected: of the one in float32.
    """
    names = list(expected[0])
    difference = error = 0.0
    agreement = None
    for name in names:
        # batches may be of different sizes: each is compared for itself
        pairs = [(a[name].double(), b[name].double()) for a, b in zip(given, expected, strict=True)]
        largest = max(b.abs().max().item() for _, b in pairs) or 1.0
        apart = max(_largest_difference(a, b) for a, b in pairs)
        difference = max(difference, apart / largest)
        squares = sum((a - b).square().sum().item() for a, b in pairs)
        signal = sum(b.square().sum().item() for _, b in pairs)
        error = max(error, (squares / signal) ** 0.5 if signal and squares == squares else float("inf"))
    if "logits" in names:
        same = torch.cat([a["logits"].argmax(1) == b["logits"].argmax(1) for a, b in zip(given, expected, strict=True)])
        agreement = same.double().mean().item()
    return Fidelity(difference, error, agreement, sum(len(answer[names[0]]) for answer in expected))


def _largest_difference(given: Tensor, expected: Tensor) -> float:
    if given.shape != expected.shape or not given.isfinite().all():
        return float("inf")
    return (given - expected).abs().max().item()
