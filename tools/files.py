"""Files and directories that are there whole or not at all, written beside their place and renamed; their sums.

Also how messages list names.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a place beside `path` to write a file or a directory to, and moves it to `path` when all went well.

    When the writer raises, `path` is what it was; when the process is killed, it is the old or the new, never a part.
    """
    fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    # what a killed process left behind
    if old.exists() and not path.exists():
        old.rename(path)
    for leftover in (fresh, old):
        _remove(leftover)
    try:
        yield fresh
        # a directory with entries cannot be replaced in one step, a file can
        if path.is_dir():
            path.rename(old)
        fresh.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        _remove(fresh)
        _remove(old)


class StorageError(OSError):
    """A disk that is full, read-only or gone. The message says what is still intact."""


@contextmanager
def storing(path: Path) -> Iterator[Path]:
    """`replacing`, for results that took long to come by: says what is left where they cannot be written.

    Raises:
        StorageError: what was at `path` is still there; or its folder is gone, and is not made again: what took its
            place may not be the disk that was meant.
    """
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} is gone, {path.name} was not written: was a disk unmounted?")
    try:
        with replacing(path) as fresh:
            yield fresh
    # torch's writer and that of safetensors have their own words for a full disk
    except (OSError, RuntimeError, SafetensorError) as error:
        kept = f"{path} is the one before, and whole" if path.exists() else "nothing was stored there before"
        raise StorageError(f"{path} could not be written: {error}; {kept}") from error


def check_writable(directory: Path, hint: str) -> None:
    """Makes a directory, and finds out now, not after an hour, whether something can be stored in it.

    Args:
        directory: where to.
        hint: what else can be done, the end of the message.

    Raises:
        ValueError: the directory cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(f"{directory} cannot be written to: {error.strerror}; {hint}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds; nothing in it is run.

    Raises:
        ValueError: it is none, or nested deeper than can be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    # errors of the text and of the encoding are ValueErrors
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


# what `sha256sum -c SHA256SUMS` reads
SUMS = "SHA256SUMS"


def write_sums(directory: Path) -> None:
    """Notes the SHA-256 of every file of a directory, so that damage is noticed: weights alone have no checksum."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != SUMS)
    (directory / SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in files))


def check_sums(directory: Path) -> dict[str, str]:
    """Compares the files of a directory with what `write_sums` noted; a directory without sums passes.

    Returns:
        The SHA-256 of each file that was compared, by name.

    Raises:
        ValueError: a file is missing or is not what was written.
    """
    sums = directory / SUMS
    found: dict[str, str] = {}
    if not sums.is_file():
        return found
    for line in sums.read_bytes().splitlines():
        digest, _, name = line.decode(errors="replace").partition("  ")
        # a name with a folder in it was not written here, and would lead elsewhere
        path = directory / Path(name).name
        if Path(name).name != name or not path.is_file():
            raise ValueError(f"{directory} is damaged: {SUMS} names {name!r}, which is not there")
        found[name] = sha256(path)
        if found[name] != digest:
            raise ValueError(
                f"{path} is damaged or was changed: it does not match {SUMS}. Where it was changed on purpose, delete "
                f"{SUMS}"
            )
    return found


def sha256(path: Path) -> str:
    """Of a file's contents, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def listed(names: Sequence[str], shown: int = 8) -> str:
    """Names for a message, not too many of them."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
