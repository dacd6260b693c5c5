"""Data sets of the Hugging Face Hub, or local ones in the same formats."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import listed
from .readers import SPLIT_NAMES, ReadPictures, ordered, read_class_map


class Rows(ReadPictures):
    """Images in the rows of a table, named by their row number: reading a file name would load the image."""

    def name(self, index: int) -> str:
        """Returns the name of an image for messages."""
        return f"{self.root} row {index}"


def hfds(
    split: str,
    dataset: str,
    root: str | None = None,
    train: str | None = None,
    val: str | None = None,
    input_key: str = "image",
    target_key: str = "label",
    class_map: str | Mapping[str, int] | None = None,
) -> Rows:
    """Opens a data set with the package `datasets`, through timm's reader.

    Args:
        split: "train" or "val".
        dataset: name on the Hugging Face Hub, such as "uoft-cs/cifar10", or a folder of the data set's files.
        root: cache folder of downloads; the one of `datasets` by default.
        train: training split, such as "train" or "train[:90%]"; by default the one with a usual name.
        val: validation split, such as "test" or "train[90%:]"; by default the one with a usual name (val, validation
            and so on).
        input_key: column of the images.
        target_key: column of the classes.
        class_map: labels by class name, for a column of names: a text file with one class name per line, or a dict.

    Raises:
        FileNotFoundError: the data set does not exist.
        ValueError: the split or a column does not exist, or a row has an unknown class.
    """
    labels = read_class_map(class_map, Path(dataset))
    wanted = {"train": train, "val": val}[split]
    options = {"root": root, "input_key": input_key, "target_key": target_key, "class_map": labels}
    reader = _open(dataset, split, SPLIT_NAMES[split] if wanted is None else (wanted,), options)
    if labels is None and not reader.class_to_idx:
        raise ValueError(
            f"data: the column {target_key} of {dataset} has no class names: set data.class_map, or data.target_key to "
            f"another column of {listed(list(reader.dataset.features))}"
        )
    _check_labels(reader, dataset, target_key, labels)
    return Rows(reader, ordered(reader.class_to_idx), f"{dataset}[{reader.split}]")


def _open(dataset: str, split: str, names: tuple[str, ...], options: dict[str, Any]) -> Any:
    from datasets import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        get_dataset_split_names,
    )
    from timm.data.readers.reader_hfds import ReaderHfds

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        there = list(get_dataset_split_names(dataset))
        # such as "train[:90%]", a part of a split
        name = next((name for name in names if re.split(r"[\[+]", name)[0] in there), None)
        if name is not None:
            return ReaderHfds(dataset, split=name, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"data.dataset: {dataset} is neither a data set on the Hub nor a folder: {error}"
        ) from error
    # `datasets` raises exceptions of many classes for damaged files and unknown columns
    except Exception as error:
        raise ValueError(f"data: {dataset} cannot be opened: {type(error).__name__}: {error}") from error
    finally:
        if not were_disabled:
            enable_progress_bars()
    raise ValueError(f"data.{split}: {dataset} has no split {' or '.join(names)}, found {listed(there)}")


def _check_labels(reader: Any, dataset: str, target_key: str, labels: Mapping[str, int] | None) -> None:
    if target_key not in reader.dataset.column_names:
        raise ValueError(
            f"data.target_key: {dataset} has no column {target_key}, found {listed(reader.dataset.column_names)}"
        )
    if not len(reader):
        raise ValueError(f"data: the split {reader.split} of {dataset} is empty")
    # reads only the column of the classes, not the images
    present = reader.dataset.unique(target_key)
    known: Any = labels if labels is not None else range(len(reader.class_to_idx))
    if labels is not None:
        present = [reader._source_names.get(value, value) for value in present]
    if unknown := [str(value) for value in present if value not in known]:
        raise ValueError(f"data: rows of {dataset}[{reader.split}] have unknown classes: {listed(unknown)}")
