"""The check of a file for models that choose by rank, where rounding may decide."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnzoo.tools.export import ExportError, checking
from attnzoo.tools.export.tasks import Classify


class Chooser(nn.Module):
    """Returns 1 if the odd columns of an image are brighter than the even ones, and otherwise 2."""

    chooses_by_rank = True

    def forward(self, images: Tensor) -> Tensor:
        is_odd = images[..., 1::2].mean((1, 2, 3)) > images[..., ::2].mean((1, 2, 3))
        return torch.where(is_odd, 1.0, 2.0).unsqueeze(1)


TASK = Classify(Chooser().eval(), (3, 4, 4))
UNDECIDED = torch.ones(1, 3, 4, 4)
DECIDED = UNDECIDED + torch.tensor([0.0, 1.0, 0.0, 1.0])


def says(number: float) -> checking.Answer:
    """A file that always returns this number."""
    return lambda images: {"logits": torch.full((len(images), 1), number)}


def test_images_on_which_rounding_decides_tell_nothing() -> None:
    assert checking.compare(says(1), TASK, [UNDECIDED, DECIDED], 1e-4) == 0


def test_images_on_which_it_does_not_tell() -> None:
    with pytest.raises(ExportError, match="the file is wrong and was not kept"):
        checking.compare(says(2), TASK, [UNDECIDED, DECIDED], 1e-4)


def test_some_images_must_tell() -> None:
    with pytest.raises(ExportError, match="on all images of the check, rounding decides"):
        checking.compare(says(1), TASK, [UNDECIDED], 1e-4)


def test_a_model_that_does_not_say_that_it_chooses_is_held_to_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Chooser, "chooses_by_rank")
    with pytest.raises(ExportError, match="the file is wrong and was not kept"):
        checking.compare(says(1), TASK, [UNDECIDED, DECIDED], 1e-4)
