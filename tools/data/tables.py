"""Data sets of the Hugging Face Hub, or local ones in the same formats."""

from __future__ import annotations

import errno
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ..files import listed
from .readers import ReadPictures, ordered, read_class_map
from .samples import Location
from .splits import names_of

# values of a column that are classes without names
_PLAIN = re.compile(r"u?int\d+|bool|(large_)?string")


class Rows(ReadPictures):
    """Images in the rows of a table, named by their row number: reading a file name would load the image."""

    @property
    def location(self) -> Location:
        """Its table."""
        return Location(self.root, size=self.reader.dataset.info.dataset_size)

    @property
    def labels(self) -> Collection[int]:
        """The label of each image."""
        return [self.reader.class_to_idx[value] for value in self.reader.dataset[self.reader.label_key]]

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

    If the column of classes has no class names, the classes are its values in the training split: integers or texts.

    Args:
        split: "train", "val", or the name of another split.
        dataset: name on the Hugging Face Hub, such as "uoft-cs/cifar10", or a folder of the data set's files.
        root: cache folder of downloads; the one of `datasets` by default.
        train: training split, such as "train" or "train[:90%]"; by default the one with a usual name.
        val: validation split, such as "test" or "train[90%:]"; by default the one with a usual name (val, validation
            and so on).
        input_key: column of the images.
        target_key: column of the classes.
        class_map: labels by class name: a text file with one class name per line, or a dict. For a column of integers
            it holds the names of the classes 0, 1 and so on, or integers.

    Raises:
        FileNotFoundError: the data set does not exist.
        ValueError: the split or a column does not exist, the column of classes has values of another kind, such as
            several classes per image, or a row has an unknown class.
    """
    given = read_class_map(class_map, Path(dataset))
    options = {"root": root, "input_key": input_key, "target_key": target_key}
    reader = open_table(dataset, split, {"train": train, "val": val}.get(split), options)
    known, present = list(reader.class_to_idx), _values(reader, dataset, target_key)
    # label of each value of the column
    labels: dict[Any, int]
    if known:
        labels = {i: given.get(name, -1) if given else i for i, name in enumerate(known)}
    elif given is None:
        first = (
            reader if split == "train" else open_table(dataset, "train", train, options, is_required=False) or reader
        )
        values = (value for value in _values(first, dataset, target_key) if value is not None)
        labels = {value: label for label, value in enumerate(sorted(values))}
    elif isinstance(present[0], str):
        labels = dict(given)
    else:
        is_integer = all(name.removeprefix("-").isdecimal() for name in given)
        labels = {int(name) if is_integer else label: label for name, label in given.items()}
    if unknown := [value for value in present if labels.get(value, -1) < 0]:
        names = [known[value] if known and value in labels else str(value) for value in unknown]
        raise ValueError(f"data: rows of {dataset}[{reader.split}] have unknown classes: {listed(names)}")
    reader.class_to_idx, reader.remap_class = labels, True
    classes = ordered(given) if given else known or [str(value) for value in labels]
    return Rows(reader, classes, f"{dataset}[{reader.split}]")


def open_table(dataset: str, split: str, wanted: str | None, options: dict[str, Any], is_required: bool = True) -> Any:
    """Opens a split with timm's reader.

    Args:
        dataset: name on the Hugging Face Hub, or a folder.
        split: "train", "val", or the name of another split.
        wanted: the split's name in the data set; None for a usual one.
        options: arguments of timm's reader.
        is_required: raise an error if there is no such split; otherwise None is returned.

    Raises:
        FileNotFoundError: the data set does not exist.
        ValueError: it cannot be opened, or has no such split.
    """
    from datasets import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        get_dataset_split_names,
    )
    from timm.data.readers.reader_hfds import ReaderHfds

    names = names_of(split) if wanted is None else (wanted,)
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
        hint = "; data.root and the environment variable HF_HOME set the cache folder" if _is_of_cache(error) else ""
        raise ValueError(f"data: {dataset} cannot be opened: {type(error).__name__}: {error}{hint}") from error
    finally:
        if not were_disabled:
            enable_progress_bars()
    if not is_required:
        return None
    raise ValueError(f"data.{split}: {dataset} has no split {' or '.join(names)}, found {listed(there)}")


def _is_of_cache(error: Exception) -> bool:
    return isinstance(error, (PermissionError, NotADirectoryError)) or getattr(error, "errno", None) == errno.EROFS


def _values(reader: Any, dataset: str, target_key: str) -> list[Any]:
    """Returns the different values of the column of classes; the images are not read."""
    from datasets import ClassLabel, Value

    if target_key not in reader.dataset.column_names:
        raise ValueError(
            f"data.target_key: {dataset} has no column {target_key}, found {listed(reader.dataset.column_names)}"
        )
    kind = reader.dataset.features[target_key]
    if not isinstance(kind, ClassLabel) and not (isinstance(kind, Value) and _PLAIN.fullmatch(kind.dtype)):
        what = kind.dtype if isinstance(kind, Value) else type(kind).__name__
        raise ValueError(
            f"data.target_key: the column {target_key} of {dataset} holds {what} values, but a classifier learns one "
            "class per image: set it to a column of class labels, integers or texts"
        )
    if not len(reader):
        raise ValueError(f"data: the split {reader.split} of {dataset} is empty")
    values: list[Any] = reader.dataset.unique(target_key)
    return values
