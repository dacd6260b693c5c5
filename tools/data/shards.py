"""Shards in the format of `webdataset`: tar files of images and labels that are read sequentially."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from ..files import listed, read_json
from ..finding import is_hidden
from ..images import EXTENSIONS, open_regular
from .readers import ordered, read_class_map
from .splits import names_of, to_set

INFO = "_info.json"

# what webdataset opens other than paths
_ADDRESS = re.compile(r"(pipe|file):|[A-Za-z][A-Za-z0-9+.-]+://|-$")


class Picture(NamedTuple):
    """A sample of a shard.

    Attributes:
        name: name of the shard and the key.
        file: the encoded image; None if there is none.
        label: label; None if there is none.
        problem: why the sample cannot be used, or "".
    """

    name: str
    file: bytes | None
    label: int | None
    problem: str = ""


class Shards:
    """Shards of one split.

    Args:
        urls: URL of each shard, as in `webdataset`.
        classes: class names, in the order of the labels.
        size: number of images in all shards.
        shuffle: size of the shuffle buffer in training.
    """

    def __init__(self, urls: Sequence[str], classes: Sequence[str], size: int, shuffle: int) -> None:
        self.urls, self.classes, self.size, self.shuffle = list(urls), list(classes), size, shuffle
        self.remarks = ""
        self._labels = {name: label for label, name in enumerate(classes)}

    def __len__(self) -> int:
        return self.size

    def read(self, url: str) -> Iterator[Picture]:
        """Yields the samples of a shard in order; if it is damaged, the last one describes the problem."""
        from webdataset.tariterators import group_by_keys, tar_file_expander

        try:
            with _open(url) as stream:
                # such as the hidden files that macOS adds to archives
                files = tar_file_expander(
                    [{"url": url, "stream": stream}], select_files=lambda name: not is_hidden(name)
                )
                for sample in group_by_keys(files):
                    yield self._picture(sample, url)
        # a broken pipe, a truncated archive, a duplicate name
        except (OSError, tarfile.TarError, ValueError, EOFError) as error:
            reason = str(error.args[0]) if error.args else type(error).__name__
            yield Picture(url, None, None, f"{url} cannot be read completely: {reason}")

    def _picture(self, sample: Mapping[str, Any], url: str) -> Picture:
        name = f"{url}/{sample['__key__']}"
        file = next((sample[ext[1:]] for ext in EXTENSIONS if ext[1:] in sample), None)
        if file is None:
            return Picture(name, None, None, f"{name} has no image: expected one of {', '.join(EXTENSIONS)}")
        if "cls" not in sample:
            return Picture(name, None, None, f"{name} has no label: expected a .cls file next to the image")
        text = sample["cls"].decode(errors="replace").strip()
        label = self._labels.get(text, int(text) if text.isdecimal() else -1)
        if not 0 <= label < len(self.classes):
            return Picture(
                name, None, None, f"{name} has the unknown label {text!r}, there are {len(self.classes)} classes"
            )
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
    """Opens shards `000000.tar` ... with `KEY.jpg` (or another image format) and `KEY.cls` (the class as text).

    Without `train` and `val` the shards are the tar files in `root/train` and `root/val`, or `train-*.tar` and
    `val-*.tar` in `root`. The same alternative names as for folders are accepted.

    Args:
        split: "train", "val", or the name of another split.
        root: folder of both splits.
        train: training shards in the syntax of `webdataset`: "data/train-{0000..0127}.tar", a URL, or "pipe:COMMAND",
            which runs the command.
        val: validation shards.
        classes: number of classes, if `.cls` contains integers.
        class_map: a text file with one class name per line, or a dict of labels by class name. `.cls` may then also
            contain class names.
        samples: training images per epoch. By default the number of images in the shards, from `root/_info.json`
            (written by timm) or counted in local shards.
        val_samples: number of images in the validation shards.
        shuffle: size of the shuffle buffer in training. A larger one shuffles better and takes more memory.

    Raises:
        FileNotFoundError: a folder or shard does not exist.
        ValueError: the classes or the number of images are unknown.
    """
    urls = _urls(split, root, {"train": train, "val": val}.get(split))
    if not isinstance(shuffle, int) or shuffle < 1:
        raise ValueError(f"data.shuffle must be an integer of at least 1, got {shuffle!r}")
    labels = read_class_map(class_map, Path(root or "."))
    if labels is None:
        if not isinstance(classes, int) or classes < 1:
            raise ValueError(
                "data: shards do not contain the list of classes: set data.classes (their number) or data.class_map"
            )
        labels = {str(label): label for label in range(classes)}
    elif classes not in (None, len(labels)):
        raise ValueError(
            f"data.classes must be the number of classes in data.class_map, {len(labels)}, got {classes}: omit it"
        )
    key, size = ("samples", samples) if split == "train" else ("val_samples", val_samples)
    if size is not None and (not isinstance(size, int) or size < 1):
        raise ValueError(f"data.{key} must be an integer of at least 1, got {size!r}")
    return Shards(urls, ordered(labels), _count(urls, root, key) if size is None else size, shuffle)


def _urls(split: str, root: str | None, given: str | None) -> list[str]:
    if given is not None:
        from webdataset.shardlists import expand_urls

        # a file may have a name that is also a pattern
        urls = [given] if Path(given).is_file() else [str(url) for url in expand_urls(given)]
        if missing := [url for url in urls if _is_local(url) and not Path(url).is_file()]:
            raise FileNotFoundError(f"data.{split}: file does not exist: {listed(missing)}")
        return urls
    if root is None:
        raise ValueError(f"data needs the location of its shards: set data.root, which contains {split}{to_set(split)}")
    if not Path(root).is_dir():
        raise FileNotFoundError(f"data.root: folder {root} does not exist")
    for name in names_of(split):
        for pattern in (f"{name}/*.tar", f"{name}-*.tar", f"*-{name}-*.tar"):
            if found := sorted(str(path) for path in Path(root).glob(pattern) if not is_hidden(path.name)):
                return found
    there = listed(sorted(path.name for path in Path(root).iterdir())) or "nothing"
    raise FileNotFoundError(
        f"data.root: {root} has no shards {split}/*.tar or {split}-*.tar, found {there}: rename it{to_set(split)}"
    )


def _count(urls: Sequence[str], root: str | None, key: str) -> int:
    """Returns the number of images in shards, from `_info.json` or by counting labels."""
    noted = _noted(Path(root)) if root is not None else {}
    total = 0
    for url in urls:
        if (length := noted.get(url.rpartition("/")[2])) is None:
            if not _is_local(url):
                raise ValueError(f"data.{key} must be set: the number of images in {url} is unknown")
            length = _count_local(Path(url))
        total += length
    if not total:
        raise ValueError(f"there are no images in {listed(urls)}: expected KEY.jpg and KEY.cls")
    return total


def _noted(root: Path) -> dict[str, int]:
    info = root / INFO
    if not info.is_file():
        return {}
    try:
        splits = read_json(info)["splits"].values()
        pairs = [pair for split in splits for pair in zip(split["filenames"], split["shard_lengths"], strict=True)]
        return {str(name).rpartition("/")[2]: int(length) for name, length in pairs}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{info} must contain filenames and shard_lengths of its splits: {error!r}") from error


def _count_local(path: Path) -> int:
    try:
        with tarfile.open(path) as archive:
            names = [member.name for member in archive if member.isfile()]
            return sum(name.endswith(".cls") and not is_hidden(name) for name in names)
    except (tarfile.TarError, OSError) as error:
        raise ValueError(f"{path} is not a tar file, or damaged") from error


def _open(url: str) -> BinaryIO:
    if _is_local(url):
        return open_regular(url)
    from webdataset.gopen import gopen

    stream: BinaryIO = gopen(url)
    return stream


def _is_local(url: str) -> bool:
    # a path may contain a colon
    return not _ADDRESS.match(url)
