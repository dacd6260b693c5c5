"""Atomic writes of files and directories (written under a temporary name and renamed), checksums, lists of names."""

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
    """Yields a temporary path next to `path`, for a file or a directory, and renames it to `path` on success.

    If the writer raises, `path` is unchanged. If the process is killed, `path` is the old or the new version, never a
    partial one.
    """
    fresh, old = path.with_name(f".{path.name}.new"), path.with_name(f".{path.name}.old")
    path.parent.mkdir(parents=True, exist_ok=True)
    # left behind by a killed process
    if old.exists() and not path.exists():
        old.rename(path)
    for leftover in (fresh, old):
        _remove(leftover)
    try:
        yield fresh
        # unlike a file, a directory that is not empty cannot be replaced in one step
        if path.is_dir():
            path.rename(old)
        fresh.replace(path)
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        _remove(fresh)
        _remove(old)


class StorageError(OSError):
    """The disk is full, read-only or gone. The message says what is still intact."""


@contextmanager
def storing(path: Path) -> Iterator[Path]:
    """Like `replacing`, for results of a training: reports what is still intact if they cannot be written.

    Raises:
        StorageError: the file could not be written and the previous one is intact; or the folder is gone. It is not
            recreated, because it could then be on another disk.
    """
    if not path.parent.is_dir():
        raise StorageError(f"{path.parent} no longer exists, {path.name} was not written: was a disk unmounted?")
    try:
        with replacing(path) as fresh:
            yield fresh
    # torch and safetensors raise errors of their own when the disk is full
    except (OSError, RuntimeError, SafetensorError) as error:
        kept = f"the previous {path.name} is intact" if path.exists() else "there was no previous version"
        raise StorageError(f"{path} could not be written: {error}; {kept}") from error


def check_writable(directory: Path, hint: str) -> None:
    """Creates a directory and checks that it is writable, before any time is spent on training.

    Args:
        directory: the directory.
        hint: what to do instead, the end of the error message.

    Raises:
        ValueError: the directory cannot be created or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise ValueError(f"{directory} is not writable: {error.strerror}; {hint}") from error


def read_json(path: Path) -> Any:
    """Reads a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte-order mark.

    Raises:
        ValueError: the file is not JSON, or nested too deeply.
    """
    try:
        return json.loads(path.read_bytes())
    # errors of the syntax and of the encoding are ValueErrors
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error


# in the format of `sha256sum -c SHA256SUMS`
SUMS = "SHA256SUMS"


def write_sums(directory: Path) -> None:
    """Writes the SHA-256 of every file of a directory to `SUMS`, because safetensors files have no checksum."""
    files = sorted(path for path in directory.iterdir() if path.is_file() and path.name != SUMS)
    (directory / SUMS).write_text("".join(f"{sha256(path)}  {path.name}\n" for path in files))


def check_sums(directory: Path) -> dict[str, str]:
    """Compares the files of a directory with the checksums of `write_sums`; a directory without checksums passes.

    Returns:
        The SHA-256 of each compared file, by name.

    Raises:
        ValueError: a file is missing or does not match its checksum.
    """
    sums = directory / SUMS
    found: dict[str, str] = {}
    if not sums.is_file():
        return found
    for line in sums.read_bytes().splitlines():
        digest, _, name = line.decode(errors="replace").partition("  ")
        # `write_sums` writes no paths: a path could lead out of the directory
        path = directory / Path(name).name
        if Path(name).name != name or not path.is_file():
            raise ValueError(f"{directory} is damaged: {SUMS} lists {name!r}, which does not exist")
        found[name] = sha256(path)
        if found[name] != digest:
            raise ValueError(
                f"{path} is damaged or was changed: it does not match {SUMS}. If it was changed on purpose, delete "
                f"{SUMS}"
            )
    return found


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def listed(names: Sequence[str], shown: int = 8) -> str:
    """Joins names for a message; at most `shown` are listed."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
