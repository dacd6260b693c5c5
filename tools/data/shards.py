"""Shards: tar files of pictures and labels side by side, each read from its beginning, in the form of `webdataset`."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..files import listed
from .readers import EXTENSIONS, SPLIT_NAMES, ordered, read_class_map

INFO = "_info.json"


class Picture(NamedTuple):
    """What a shard holds under one key.

    Attributes:
        name: of the shard and the key.
        file: the picture, not decoded; None where there is none.
        label: its class; None where there is none.
        problem: why it cannot be used, or "".
    """

    name: str
    file: bytes | None
    label: int | None
    problem: str = ""


class Shards:
    """Shards of one split.

    Args:
        urls: of each shard, as `webdataset` opens them.
        classes: names, in the order of the labels.
        size: pictures in all of them.
        shuffle: pictures to choose the next from while training.
    """

    def __init__(self, urls: Sequence[str], classes: Sequence[str], size: int, shuffle: int) -> None:
        self.urls, self.classes, self.size, self.shuffle = list(urls), list(classes), size, shuffle
        self._labels = {name: label for label, name in enumerate(classes)}

    def __len__(self) -> int:
        return self.size

    def read(self, url: str) -> Iterator[Picture]:
        """The pictures of a shard, in their order; where it is damaged, its name and why comes last."""
        from webdataset.gopen import gopen
        from webdataset.tariterators import group_by_keys, tar_file_expander

        try:
            with gopen(url) as stream:
                for sample in group_by_keys(tar_file_expander([{"url": url, "stream": stream}])):
                    yield self._picture(sample, url)
        # a broken pipe, an archive that ends early, a name twice in it
        except (OSError, tarfile.TarError, ValueError, EOFError) as error:
            reason = str(error.args[0]) if error.args else type(error).__name__
            yield Picture(url, None, None, f"{url} cannot be read to its end: {reason}")

    def _picture(self, sample: Mapping[str, Any], url: str) -> Picture:
        name = f"{url}/{sample['__key__']}"
        file = next((sample[ext[1:]] for ext in EXTENSIONS if ext[1:] in sample), None)
        if file is None:
            return Picture(name, None, None, f"{name} has no picture: one of {', '.join(EXTENSIONS)} is wanted")
        if "cls" not in sample:
            return Picture(name, None, None, f"{name} has no label: a file .cls beside the picture is wanted")
        text = sample["cls"].decode(errors="replace").strip()
        label = self._labels.get(text, int(text) if text.isdecimal() else -1)
        if not 0 <= label < len(self.classes):
            return Picture(name, None, None, f"{name} has the label {text!r}, there are {len(self.classes)} classes")
        return Picture(name, file, label)


def wds(
    split: str,
    root: str | None = None,
    train: str | None = None,
    val: str | None = None,
    classes: int | None = None,
    class_map: str | Mapping[str, int] | None = None,
    samples: int | None = None,
    val_samples: int | None = None,
    shuffle: int = 1000,
) -> Shards:
    """Shards `000000.tar` and so on: in each `KEY.jpg` (or another picture) and `KEY.cls` (its class, as text).

    Without `train` and `val` these are the tar files in `root/train` and `root/val`, or `train-*.tar` and `val-*.tar`
    in `root`, with the same other names as for folders.

    Args:
        split: "train" or "val".
        root: folder of both splits.
        train: shards to train on, as `webdataset` names them: "data/train-{0000..0127}.tar", an address, or
            "pipe:COMMAND", which runs the command.
        val: shards to judge by.
        classes: their number, where `.cls` holds numbers.
        class_map: a text file with the name of a class a line, or labels by name; `.cls` may then hold names too.
        samples: pictures to train on in an epoch. By default all: what `root/_info.json` says of the shards (timm
            writes one), or what is counted in local ones.
        val_samples: pictures in the shards of `val`.
        shuffle: pictures to choose the next from while training; more mixes better and takes more memory.

    Raises:
        FileNotFoundError: a folder or shard is not there.
        ValueError: the classes or the number of pictures are not known.
    """
    urls = _urls(split, root, {"train": train, "val": val}[split])
    if not isinstance(shuffle, int) or shuffle < 1:
        raise ValueError(f"data.shuffle must be an integer of at least 1, got {shuffle!r}")
    labels = read_class_map(class_map, Path(root or "."))
    if labels is None:
        if not isinstance(classes, int) or classes < 1:
            raise ValueError("data: shards do not say which classes there are: give classes (a number) or class_map")
        labels = {str(label): label for label in range(classes)}
    elif classes not in (None, len(labels)):
        raise ValueError(f"data.classes is {classes}, but data.class_map has {len(labels)}: leave classes out")
    key, size = ("samples", samples) if split == "train" else ("val_samples", val_samples)
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"data.{key} must be an integer of at least 1, got {size!r}")
    return Shards(urls, ordered(labels), _count(urls, root, key) if size is None else size, shuffle)


def _urls(split: str, root: str | None, given: str | None) -> list[str]:
    if given is not None:
        from webdataset.shardlists import expand_urls

        urls = [str(url) for url in expand_urls(given)]
        if missing := [url for url in urls if _is_local(url) and not Path(url).is_file()]:
            raise FileNotFoundError(f"data.{split}: there is no file {listed(missing)}")
        return urls
    if root is None:
        raise ValueError(f"data lacks where its shards are: give root, with those of {split} in it, or {split}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data.root: there is no folder {root}")
    for name in SPLIT_NAMES[split]:
        for pattern in (f"{name}/*.tar", f"{name}-*.tar", f"*-{name}-*.tar"):
            if found := sorted(Path(root).glob(pattern)):
                return [str(path) for path in found]
    there = listed(sorted(path.name for path in Path(root).iterdir())) or "nothing"
    raise FileNotFoundError(
        f"data.root: {root} has no shards {split}/*.tar or {split}-*.tar, but {there}: rename, or give data.{split}"
    )


def _count(urls: Sequence[str], root: str | None, key: str) -> int:
    """Pictures in shards: as noted down, or counted without reading them."""
    noted = _noted(Path(root)) if root is not None else {}
    total = 0
    for url in urls:
        if (length := noted.get(url.rpartition("/")[2])) is None:
            if not _is_local(url):
                raise ValueError(f"data.{key} must be given: how many pictures {url} holds is not known")
            length = _count_local(Path(url))
        total += length
    if not total:
        raise ValueError(f"there are no pictures in {listed(urls)}: wanted are KEY.jpg and KEY.cls")
    return total


def _noted(root: Path) -> dict[str, int]:
    info = root / INFO
    if not info.is_file():
        return {}
    try:
        splits = json.loads(info.read_text())["splits"].values()
        pairs = [pair for split in splits for pair in zip(split["filenames"], split["shard_lengths"], strict=True)]
        return {str(name).rpartition("/")[2]: int(length) for name, length in pairs}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{info} does not give filenames and shard_lengths of its splits: {error!r}") from error


def _count_local(path: Path) -> int:
    try:
        with tarfile.open(path) as archive:
            return sum(member.isfile() and member.name.endswith(".cls") for member in archive)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} is no tar file, or damaged") from error


def _is_local(url: str) -> bool:
    return ":" not in url
