"""Atomic writes of files and directories (written under a temporary name and renamed), checksums, lists of names."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import socket
import stat
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from attnzoo.base.download import sha256

# attempts to replace a directory that another process replaces at the same time
_ATTEMPTS = 20

# what a process has left behind is looked for when it first writes to a directory
_swept: set[tuple[int, Path]] = set()
_sweeping = threading.Lock()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`, for a file or a directory, and renames it to `path` on success.

    If the writer raises, `path` is unchanged. If the process is killed, `path` is the old or the new version, never a
    partial one. Temporary names contain the process, so that several processes may write the same path; the last one
    wins. Files are readable as the umask says, also if a library writes them for their owner only.
    """
    suffix = f"{os.getpid()}-{_host()}"
    fresh, old = (path.with_name(f".{path.name}.{suffix}.{kind}") for kind in ("new", "old"))
    path.parent.mkdir(parents=True, exist_ok=True)
    with _sweeping:
        if (os.getpid(), path.parent.absolute()) not in _swept:
            sweep(path.parent)
            _swept.add((os.getpid(), path.parent.absolute()))
    try:
        yield fresh
        _open_to_others(fresh)
        _move(fresh, path, old)
    # what safetensors raises if the disk is full
    except SafetensorError as error:
        raise OSError(errno.EIO, f"cannot be written: {error}", str(path)) from error
    finally:
        if old.exists() and not path.exists():
            old.rename(path)
        _remove(fresh)
        _remove(old)


def sweep(directory: Path, of_all: bool = False) -> None:
    """Removes the temporary files of processes that were killed, and restores what such a process was replacing.

    Args:
        directory: the directory to look in; this process must not have begun to write to it.
        of_all: whether no other process is writing to the directory; otherwise only what belongs to processes of this
            machine that have ended.
    """
    for entry in list(directory.iterdir()) if os.access(directory, os.R_OK) else []:
        found = re.fullmatch(r"\.(.+)\.(\d+)-([\w-]+)\.(new|old)", entry.name, re.DOTALL)
        if found is None or not (of_all or (found[3] == _host() and not _is_running(int(found[2])))):
            continue
        path = entry.with_name(found[1])
        # of another user, or removed by another process
        with contextlib.suppress(OSError):
            if found[4] == "old" and not path.exists():
                entry.rename(path)
            else:
                _remove(entry)


def _move(fresh: Path, path: Path, old: Path) -> None:
    for _ in range(_ATTEMPTS):
        if _has_moved(fresh, path, old):
            return
    raise OSError(errno.EBUSY, "other processes are replacing it", str(path))


def _has_moved(fresh: Path, path: Path, old: Path) -> bool:
    try:
        # unlike a file, a directory that is not empty cannot be replaced in one step
        if path.is_dir():
            path.rename(old)
        fresh.replace(path)
    except OSError as error:
        # another process has moved or written the directory in between
        is_raced = fresh.is_dir() and error.errno in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST)
        if not is_raced or (old.exists() and not path.exists()):
            raise
        _remove(old)
        return False
    return True


def _open_to_others(fresh: Path) -> None:
    """Sets the mode of files that only their owner may read, which is how safetensors creates them, by the umask."""
    for path in fresh.rglob("*") if fresh.is_dir() else (fresh,):
        if path.is_file() and not path.stat().st_mode & 0o077:
            # the umask can only be read by changing it, which other threads would notice
            probe = fresh.with_name(f".probe{fresh.name}")
            probe.touch()
            path.chmod(stat.S_IMODE(probe.stat().st_mode))
            probe.unlink()


def _host() -> str:
    return re.sub(r"\W", "-", socket.gethostname(), flags=re.ASCII)[:32]


def _is_running(process: int) -> bool:
    # called before this process writes: its number is that of an earlier one, as in a container
    if process == os.getpid():
        return False
    # on Windows, the signal 0 is Ctrl-C
    if os.name == "nt":
        return True
    try:
        os.kill(process, 0)
    # a number that is too large belongs to no process
    except (ProcessLookupError, OverflowError):
        return False
    # of another user
    except PermissionError:
        return True
    return True


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
    # torch raises errors of its own when the disk is full
    except (OSError, RuntimeError) as error:
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


def listed(names: Sequence[str], shown: int = 8) -> str:
    """Joins names for a message; at most `shown` are listed."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def plural(count: int, noun: str) -> str:
    """Returns a number with a noun, such as "1 class" and "2 classes"."""
    return f"{count} {noun if count == 1 else f'{noun}es' if noun.endswith('s') else f'{noun}s'}"


def without_function(error: Exception) -> str:
    """Returns the message of an error without the name of the function that Python begins it with."""
    return re.sub(r"^[\w.<>]+\(\) (?=got |missing |takes )", "", str(error))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
