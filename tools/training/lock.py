"""The lock of a work directory: one training at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..files import check_writable, sweep

try:
    import fcntl
# not on Windows
except ImportError:
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"

# directories that this process has locked: the locks of the system are between processes
_held: set[Path] = set()


@contextmanager
def locked(work_dir: Path) -> Iterator[None]:
    """Creates a work directory and locks it for this process.

    The system releases the lock when the process ends, however it ends. Directories that were created here and are
    empty in the end are removed.

    Raises:
        ValueError: the directory is not writable, or another training uses it; the message names its process.
    """
    work_dir = work_dir.absolute()
    created = [folder for folder in (work_dir, *work_dir.parents) if not folder.exists()]
    check_writable(work_dir, "choose another --work-dir")
    if work_dir in _held:
        raise _in_use(work_dir, "this process")
    file = _lock(work_dir / LOCK)
    _held.add(work_dir)
    try:
        # nothing else writes here now, so these are the remains of a killed process
        sweep(work_dir, of_all=True)
        yield
    finally:
        _held.discard(work_dir)
        # the directory, or its disk, may be gone
        with contextlib.suppress(OSError):
            (work_dir / LOCK).unlink()
        os.close(file)
        for folder in created:
            # one that is not empty is kept
            with contextlib.suppress(OSError):
                folder.rmdir()


def _lock(path: Path) -> int:
    """Locks a file for this process and returns its descriptor."""
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise ValueError(f"{path} cannot be opened: {error.strerror}; choose another --work-dir") from error
        if not _is_locked(file):
            holder = os.read(file, 1000).decode(errors="replace").strip()
            os.close(file)
            raise _in_use(path.parent, holder or "another process")
        # a process that ended in between has removed the file
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), path.stat()):
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}, since {time.ctime()}\n".encode())
                return file
        os.close(file)


def _is_locked(file: int) -> bool:
    """Locks a file for this process; returns whether no other process has locked it."""
    if fcntl is None:
        return True
    try:
        # not flock, which the data loading processes would inherit and keep
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        warnings.warn(
            f"the work directory cannot be locked ({error.strerror}): start no second run in it", stacklevel=2
        )
    return True


def _in_use(work_dir: Path, holder: str) -> ValueError:
    return ValueError(f"{work_dir} is in use by {holder}: wait until it has ended, or choose another --work-dir")
