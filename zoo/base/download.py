"""Downloads of files over HTTP: continued where the server allows it, checked, and never incomplete."""

from __future__ import annotations

import errno
import hashlib
import http.client
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

# environment variable: seconds without data after which a server is given up
TIMEOUT = "ATTNZOO_DOWNLOAD_TIMEOUT"
_TIMEOUT = 20.0

# transfers of a file that is interrupted, each from where the one before ended
_ATTEMPTS = 3
_CHUNK = 2**20

# torch.hub's convention: the first digits of a file's SHA-256 after a hyphen, before the suffix
_DIGEST = re.compile(r"-([0-9a-f]{8,64})\.")


class DownloadError(Exception):
    """A file could not be had; the message is the reason, in one line."""


class _InterruptedError(DownloadError):
    """A transfer ended early; what came is kept if it can be continued."""


def digest_in(name: str) -> str:
    """Returns the first digits of a file's SHA-256 that its name contains; empty if it has none."""
    found = _DIGEST.search(name)
    return found[1] if found else ""


def timeout() -> float:
    """Returns the seconds without data after which a server is given up.

    Raises:
        ValueError: the environment variable is not a positive number.
    """
    given = os.environ.get(TIMEOUT, str(_TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ValueError(f"the environment variable {TIMEOUT} must be a positive number of seconds, got {given!r}")
    return seconds


def download(url: str, path: Path, check: Callable[[Path], None]) -> None:
    """Downloads a file. Processes that download the same file wait for the first of them.

    What an interrupted transfer has brought is kept beside the file, under a name that begins with a dot, and continued
    if the server still has the same file.

    Args:
        url: address; redirects are followed.
        path: the file, which is replaced if it exists.
        check: called with the path of the complete file, with the same suffix; it raises if the file must not be kept.

    Raises:
        DownloadError: the file cannot be had, ends early, is a web page, or does not match the digest in its name.
        OSError: the file cannot be written.
    """
    # a dependency of torch
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    partial, version = path.with_name(f".partial.{path.name}"), path.with_name(f".version.{path.name}")
    before = _identity(path)
    with FileLock(path.with_name(f".lock.{path.name}")):
        if _identity(path) != before:
            # another process was faster
            return
        for attempt in range(_ATTEMPTS):
            size = _size(partial)
            try:
                _transfer(url, partial, version)
                break
            except _InterruptedError:
                if attempt == _ATTEMPTS - 1 or _size(partial) <= size:
                    raise
        try:
            _check_digest(partial, digest_in(path.name))
            check(partial)
        except BaseException:
            partial.unlink()
            raise
        finally:
            version.unlink(missing_ok=True)
        partial.replace(path)


def _transfer(url: str, partial: Path, version: Path) -> None:
    """Writes or continues `partial`; `version` holds the server's name of the version that it is a part of."""
    have = _size(partial) if version.is_file() else 0
    headers = {"User-Agent": "attnzoo"}
    if have:
        headers |= {"Range": f"bytes={have}-", "If-Range": version.read_text()}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout())
    except urllib.error.HTTPError as error:
        # the part is not one of the file that the server has
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            partial.unlink()
            return _transfer(url, partial, version)
        raise DownloadError(status_of(error)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise DownloadError(reason_of(error)) from error
    with response:
        if response.headers.get_content_type() == "text/html":
            raise DownloadError("the answer is a web page instead of a file")
        continued = response.status == http.HTTPStatus.PARTIAL_CONTENT
        if continued and not (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-"):
            raise DownloadError("the answer is another part of the file than the one asked for")
        if not continued:
            have = 0
            _note_version(response, version)
        length = response.headers.get("Content-Length")
        _copy(response, partial, "ab" if continued else "wb", have + int(length) if length else None)


def _note_version(response: Any, version: Path) -> None:
    tag = response.headers.get("ETag") or ""
    # only a strong tag, or else a date, can be asked for in If-Range
    named = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
    version.unlink(missing_ok=True)
    if named:
        version.write_text(named)


def _copy(response: Any, partial: Path, mode: str, size: int | None) -> None:
    from huggingface_hub.utils import tqdm

    with partial.open(mode) as file, tqdm(
        total=size, initial=file.tell(), unit="B", unit_scale=True, desc=partial.name.removeprefix(".partial.")
    ) as progress:  # fmt: skip
        while True:
            try:
                chunk = response.read(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _InterruptedError(f"the transfer ended after {file.tell()} bytes: {reason_of(error)}") from error
            if not chunk:
                break
            file.write(chunk)
            progress.update(len(chunk))
        if size is not None and file.tell() != size:
            raise _InterruptedError(f"the transfer ended after {file.tell()} of {size} bytes")


def _check_digest(path: Path, expected: str) -> None:
    digest = sha256(path) if expected else ""
    if not digest.startswith(expected):
        raise DownloadError(f"its SHA-256 begins with {digest[: len(expected)]} instead of {expected}")


def sha256(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _identity(path: Path) -> tuple[int, int] | None:
    """What changes when a file is replaced; None if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def status_of(error: urllib.error.HTTPError) -> str:
    """Returns an HTTP status in a line; that of endless redirects has several."""
    return " ".join(f"HTTP {error.code} {error.reason}".split())


def reason_of(error: BaseException) -> str:
    """Returns why a request failed, in a few words."""
    # urllib puts the error of the connection in another one
    cause = getattr(error, "reason", error)
    cause = cause if isinstance(cause, BaseException) else error
    if isinstance(cause, TimeoutError) or getattr(cause, "errno", None) == errno.ETIMEDOUT:
        return f"no answer within {timeout():g} s"
    said = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
    is_connection = isinstance(error, urllib.error.URLError) or isinstance(cause, ConnectionError)
    return " ".join((f"no connection: {said}" if is_connection else said).split())
