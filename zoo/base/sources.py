"""Where published weights are: an ordered list of sources per model, of which the first that can be had is used."""

from __future__ import annotations

import logging
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

from timm.models import PretrainedCfg
from timm.models._hub import get_cache_dir

from .download import DownloadError, digest_in, download, reason_of, status_of, timeout

_logger = logging.getLogger(__name__)

# the files of weights in a repository of which none is named, the safe format first
_NAMES = ("model.safetensors", "pytorch_model.bin")

# address of a file in a repository
_ON_HUB = re.compile(r"https://huggingface\.co/([^/]+/[^/]+)/resolve/main/([^?]+)")


class WeightsError(RuntimeError):
    """Published weights could not be had from any source.

    Attributes:
        tried: the sources, each with its reason, in one line; the message also says what to do.
    """

    def __init__(self, name: str, tried: str, page: str | None) -> None:
        advice = f"Download a file by hand{f' (see {page})' if page else ''} and pass pretrained_cfg_overlay="
        super().__init__(f"the weights of {name} could not be had from any source: {tried}. {advice}{{'file': path}}")
        self.tried = tried


class UnsuitableError(Exception):
    """A file has been had that does not hold the weights of the model; the message says why.

    Attributes:
        is_damaged: whether the file cannot be read, so that another download may help.
    """

    def __init__(self, message: str, is_damaged: bool = False) -> None:
        super().__init__(message)
        self.is_damaged = is_damaged


@dataclass(frozen=True)
class Source:
    """A place that weights are published at.

    Attributes:
        url: address of the file; empty for a repository on the Hugging Face Hub.
        repository: `owner/name` on the Hugging Face Hub.
        filename: file in the repository; empty for `model.safetensors` or else `pytorch_model.bin`.
    """

    url: str = ""
    repository: str = ""
    filename: str = ""

    def __str__(self) -> str:
        """The address of the file, or of the repository if the file has a usual name."""
        if not self.repository:
            return self.url
        page = f"https://huggingface.co/{self.repository}"
        return f"{page}/resolve/main/{self.filename}" if self.filename else page

    @property
    def digest(self) -> str:
        """The first digits of the file's SHA-256, if the source publishes them in the name of the file."""
        return digest_in(self.filename or urlparse(self.url).path.rpartition("/")[2])


def sources_of(config: PretrainedCfg) -> list[Source]:
    """Returns the sources that a configuration of timm names, in the order in which they are tried."""
    found = []
    if config.hf_hub_id:
        found.append(Source(repository=config.hf_hub_id, filename=config.hf_hub_filename or ""))
    if config.url:
        url = str(config.url)
        on_hub = _ON_HUB.fullmatch(url)
        found.append(Source(repository=on_hub[1], filename=unquote(on_hub[2])) if on_hub else Source(url))
    return found


def fetch(
    name: str, config: PretrainedCfg, check: Callable[[Path], None], cache_dir: str | Path | None = None
) -> tuple[Path, Source]:
    """Returns a file with the weights of a model, and its source.

    A file that is in a cache already is used without a request. Otherwise the sources are tried in their order; each
    that fails is named in a warning. Files of a URL are stored in torch.hub's folder, under the last part of the URL,
    or under the model's name if that is not the name of a file. Files of the Hugging Face Hub are downloaded by
    huggingface_hub, to its cache and under its environment variables.

    Args:
        name: name of the model with its tag.
        config: the configuration of timm that names the sources.
        check: raises `UnsuitableError` if a file does not hold the weights of the model.
        cache_dir: folder of downloads; None for the usual ones.

    Raises:
        WeightsError: no source has the weights.
    """
    listed, failed = sources_of(config), dict[Source, str]()
    damaged: set[Source] = set()
    for source, path in _cached(listed, name, cache_dir):
        wrong = _fault(path, check)
        if wrong is None:
            return path, source
        if wrong.is_damaged:
            damaged.add(source)
        else:
            failed[source] = str(wrong)
    for source in listed:
        if source not in failed:
            try:
                get = _from_hub if source.repository else _from_url
                return get(source, name, cache_dir, check, source in damaged), source
            except (DownloadError, UnsuitableError) as error:
                failed[source] = str(error)
            # the disk is full, or the folder is read-only
            except OSError as error:
                place = error.filename or _place(source, name, cache_dir)
                failed[source] = f"the file cannot be written: {error.strerror or error}: {place}"
        if source != listed[-1]:
            _logger.warning("%s: no weights from %s: %s; trying the next source", name, source, failed[source])
    tried = "; ".join(f"{source}: {failed[source]}" for source in listed) or "no address of them is known"
    raise WeightsError(name, tried, config.origin_url)


def check_connection(name: str, config: PretrainedCfg, cache_dir: str | Path | None = None) -> None:
    """Checks that the Hugging Face Hub answers, if timm is going to ask it for weights that are not in the cache.

    Without a connection, timm would ask for about a minute.

    Args:
        name: name of the model.
        config: the configuration of timm that names the sources.
        cache_dir: folder of downloads; None for the usual one.

    Raises:
        WeightsError: it does not answer.
    """
    for source in sources_of(config)[:1]:
        if source.repository and not any(_cached([source], name, cache_dir)):
            try:
                _check_hub(source)
            except DownloadError as error:
                raise WeightsError(name, f"{source}: {error}", config.origin_url) from error


def _fault(path: Path, check: Callable[[Path], None]) -> UnsuitableError | None:
    try:
        check(path)
    except UnsuitableError as error:
        return error
    return None


def _cached(listed: list[Source], name: str, cache_dir: str | Path | None) -> Iterator[tuple[Source, Path]]:
    """Yields the sources whose files have been downloaded before, with the files."""
    from huggingface_hub import try_to_load_from_cache

    for source in listed:
        if not source.repository:
            paths: list[Any] = [_place(source, name, cache_dir)]
        else:
            names = [source.filename] if source.filename else _NAMES
            paths = [try_to_load_from_cache(source.repository, file, cache_dir=cache_dir) for file in names]
        # a file that is known not to exist has a value of its own
        path = next((Path(path) for path in paths if isinstance(path, (str, Path)) and Path(path).is_file()), None)
        if path is not None:
            yield source, path


def _place(source: Source, name: str, cache_dir: str | Path | None) -> Path:
    """Returns where the file of a URL is stored: timm's place, but a name of its own for links of sharing services."""
    last = unquote(urlparse(source.url).path.rpartition("/")[2])
    return Path(cache_dir or get_cache_dir()) / (last if "." in last else f"{name}.pth")


def _from_url(
    source: Source, name: str, cache_dir: str | Path | None, check: Callable[[Path], None], is_damaged: bool
) -> Path:
    path = _place(source, name, cache_dir)
    download(source.url, path, check)
    return path


def _from_hub(
    source: Source, name: str, cache_dir: str | Path | None, check: Callable[[Path], None], is_damaged: bool
) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import EntryNotFoundError, LocalEntryNotFoundError

    _check_hub(source)
    names = [source.filename] if source.filename else _NAMES
    for file in names:
        try:
            path = Path(hf_hub_download(source.repository, file, cache_dir=cache_dir, force_download=is_damaged))
        except LocalEntryNotFoundError as error:
            raise DownloadError(_first_line(error.__cause__ or error)) from error
        except EntryNotFoundError:
            continue
        # its errors are of many classes, those of the library beneath among them
        except Exception as error:
            raise DownloadError(_first_line(error)) from error
        check(path)
        return path
    raise DownloadError(f"the repository has no {' or '.join(names)}")


def _check_hub(source: Source) -> None:
    """Checks that the Hugging Face Hub may be asked, and answers at once; huggingface_hub would try for half a minute.

    Raises:
        DownloadError: it may not, or does not, or answers with an error of its own.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        raise DownloadError("not in the cache, and HF_HUB_OFFLINE is set")
    url = hf_hub_url(source.repository, source.filename or _NAMES[0])
    try:
        opener = urllib.request.build_opener(_NoRedirects)
        opener.open(urllib.request.Request(url, method="HEAD"), timeout=timeout()).close()
    except urllib.error.HTTPError as error:
        # a redirect is an answer; what is missing or needs a login is told better by huggingface_hub
        if error.code >= 500:
            raise DownloadError(status_of(error)) from error
    except Exception as error:
        raise DownloadError(reason_of(error)) from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Lets a redirect be reported as an error."""


def _first_line(error: BaseException) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        hints = {
            401: "there is no such public repository",
            403: "access is refused",
            404: "there is no such repository",
        }
        hint = hints.get(response.status_code, "")
        return f"HTTP {response.status_code}" + (f", {hint}" if hint else "")
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
