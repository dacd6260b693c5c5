"""Images and their masks in the columns of a table."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from ..data.readers import read_class_map
from ..data.samples import Location
from ..data.tables import open_table
from ..files import listed
from ..images import UnreadableImageError, read_image
from .sources import Coding, IndexMasks


class TableMasks(IndexMasks):
    """A data set of the Hugging Face Hub, or a local one, with a column of images and a column of masks.

    Args:
        split: "train", "val", or the name of another split.
        dataset: name on the Hugging Face Hub, or a folder of the data set's files.
        class_map: names of the classes: a text file with one name per line, or a dict of labels by name.
        root: cache folder of downloads; the one of `datasets` by default.
        train: training split, such as "train" or "train[:90%]"; by default the one with a usual name.
        val: validation split; by default the one with a usual name.
        input_key: column of the images.
        target_key: column of the masks.
        first_label: see `Coding`.
        ignore_index: see `Coding`.
        values: see `Coding`.

    Raises:
        FileNotFoundError: the data set does not exist.
        ValueError: the split or a column does not exist, or the column of masks holds no images.
    """

    remarks = ""

    def __init__(
        self,
        split: str,
        dataset: str,
        class_map: str | Mapping[str, int] | None = None,
        root: str | None = None,
        train: str | None = None,
        val: str | None = None,
        input_key: str = "image",
        target_key: str = "annotation",
        first_label: int = 0,
        ignore_index: int | None = 255,
        values: Sequence[int] | None = None,
    ) -> None:
        from datasets import Image as ImageColumn

        labels = read_class_map(class_map, Path(dataset))
        if labels is None:
            raise ValueError("data.class_map must name the classes, a table of masks does not: set it to a text file")
        super().__init__(labels, Coding(first_label, ignore_index, values))
        options = {"root": root, "input_key": input_key, "target_key": target_key}
        reader = open_table(dataset, split, {"train": train, "val": val}.get(split), options)
        self.place, self.columns = f"{dataset}[{reader.split}]", (input_key, target_key)
        if not isinstance(reader.dataset.features.get(target_key), ImageColumn):
            raise ValueError(
                f"data.target_key: {dataset} has no column {target_key} of images, found "
                f"{listed(reader.dataset.column_names)}"
            )
        self.location = Location(self.place, size=reader.dataset.info.dataset_size)
        self.rows = reader.dataset.cast_column(target_key, ImageColumn(decode=False))

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, index: int) -> str:
        """The row of an image."""
        return f"{self.place} row {index}"

    def picture(self, index: int, channels: int) -> Image.Image:
        """Reads an image.

        Raises:
            UnreadableImageError: it cannot be read.
        """
        return read_image(self._cell(index, 0), channels, self.name(index))

    def file(self, index: int) -> tuple[str | BinaryIO, str]:
        """The mask of an image."""
        return self._cell(index, 1), f"{self.columns[1]} of {self.name(index)}"

    def _cell(self, index: int, column: int) -> str | BinaryIO:
        cell = self.rows[index][self.columns[column]]
        if not cell or not (cell.get("bytes") or cell.get("path")):
            raise UnreadableImageError(f"{self.name(index)} has no {self.columns[column]}")
        return io.BytesIO(cell["bytes"]) if cell.get("bytes") else str(cell["path"])
