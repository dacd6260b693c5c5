"""Validation samples that are held out of the training samples, where a data set has none of its own."""

from __future__ import annotations

import random
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple


class Holdout(NamedTuple):
    """How validation samples are held out.

    Attributes:
        share: share of the samples of each group, greater than 0 and less than 1.
        seed: seed of the choice.
    """

    share: float
    seed: int

    def check(self) -> None:
        """Checks both values.

        Raises:
            ValueError: one is out of range.
        """
        is_number = isinstance(self.share, (int, float)) and not isinstance(self.share, bool)
        if not is_number or not 0 < self.share < 1:
            raise ValueError(f"data.val_share must be a number greater than 0 and less than 1, got {self.share!r}")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"data.val_seed must be an integer of at least 0, got {self.seed!r}")

    def rows(self, split: str, groups: Sequence[Hashable], place: object) -> list[int]:
        """Returns the indices of the samples of a split, in order. Of a group of one sample, none is held out.

        Args:
            split: "train" or "val".
            groups: the group of each sample, such as its class.
            place: where the samples are, for messages.

        Raises:
            ValueError: a value is out of range, or no group has two samples.
        """
        self.check()
        members: dict[Hashable, list[int]] = {}
        for row, group in enumerate(groups):
            members.setdefault(group, []).append(row)
        held: set[int] = set()
        for rows in members.values():
            count = min(max(round(len(rows) * self.share), 1), len(rows) - 1)
            held.update(random.Random(self.seed).sample(rows, count))
        if not held:
            raise ValueError(
                f"{place} has no validation images, and only one image of each class, so that none can be held out"
            )
        return [row for row in range(len(groups)) if (row in held) == (split == "val")]

    def remark(self, place: object, of_each: str) -> str:
        """Describes the held out samples for the summary: where they are from, and by what group."""
        return (
            f"{place} has no validation images: {self.share:.3g} of {of_each} is held out, drawn with seed {self.seed} "
            "(data.val_share, data.val_seed)"
        )


class Part:
    """Some of the samples of a reader of timm, with its interface.

    Args:
        reader: the reader.
        rows: indices of the samples.
    """

    def __init__(self, reader: Any, rows: Sequence[int]) -> None:
        self.reader, self.rows = reader, rows
        self.targets = [reader.targets[row] for row in rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.reader[self.rows[index]]

    def filename(self, index: int) -> str:
        """Returns the name of the file of a sample."""
        name: str = self.reader.filename(self.rows[index])
        return name
