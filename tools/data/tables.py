"""Data sets of the Hugging Face hub, or in its forms on the own disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import listed
from .readers import SPLIT_NAMES, ReadPictures, ordered, read_class_map


class Rows(ReadPictures):
    """Pictures in the rows of a table, which are numbers: their names, where they have any, cost the picture."""

    def name(self, index: int) -> str:
        """What to call the picture in a message."""
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
    """A data set that the package `datasets` opens, through timm's reader.

    Args:
        split: "train" or "val".
        dataset: its name on the hub, "uoft-cs/cifar10", or a folder of its files.
        root: where downloads are kept; by default where `datasets` keeps them.
        train: split to train on, such as "train" or "train[:90%]".
        val: split to judge by, such as "test" or "train[90%:]". Without them it is the one named train, or val,
            validation and so on.
        input_key: column of the pictures.
        target_key: column of the classes.
        class_map: labels by class name, for a column that holds names; a text file with a name a line, or a dict.

    Raises:
        FileNotFoundError: there is no such data set.
        ValueError: it has no such split or column, or rows without a class.
    """
    labels = read_class_map(class_map, Path(dataset))
    wanted = {"train": train, "val": val}[split]
    options = {"root": root, "input_key": input_key, "target_key": target_key, "class_map": labels}
    reader = _open(dataset, split, SPLIT_NAMES[split] if wanted is None else (wanted,), options)
    if labels is None and not reader.class_to_idx:
        raise ValueError(
            f"data: the column {target_key} of {dataset} has no names of its classes: give class_map, or another "
            f"target_key of {listed(list(reader.dataset.features))}"
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
        # "train[:90%]" is a part of a split
        name = next((name for name in names if re.split(r"[\[+]", name)[0] in there), None)
        if name is not None:
            return ReaderHfds(dataset, split=name, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"data.dataset: {dataset} is no data set of the hub and no folder: {error}") from error
    # what a damaged file or an unknown column makes `datasets` raise has no common class
    except Exception as error:
        raise ValueError(f"data: {dataset} cannot be opened: {type(error).__name__}: {error}") from error
    finally:
        if not were_disabled:
            enable_progress_bars()
    raise ValueError(f"data.{split}: {dataset} has no split {' or '.join(names)}, but {listed(there)}")


def _check_labels(reader: Any, dataset: str, target_key: str, labels: Mapping[str, int] | None) -> None:
    if target_key not in reader.dataset.column_names:
        raise ValueError(
            f"data.target_key: {dataset} has no column {target_key}, but {listed(reader.dataset.column_names)}"
        )
    if not len(reader):
        raise ValueError(f"data: the split {reader.split} of {dataset} is empty")
    # a table knows the values of a column without reading its pictures
    present = reader.dataset.unique(target_key)
    known: Any = labels if labels is not None else range(len(reader.class_to_idx))
    if labels is not None:
        present = [reader._source_names.get(value, value) for value in present]
    if unknown := [str(value) for value in present if value not in known]:
        raise ValueError(f"data: rows of {dataset}[{reader.split}] have the class {listed(unknown)}, which is none")
