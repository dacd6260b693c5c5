"""Weights come from the first source that has them, over a server on this machine."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import io
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from timm.models import _registry
from torch import Tensor, nn

from attnzoo.base import Backbone, Family, WeightsError, checkpoint_filter, filter_by, sources_of
from attnzoo.base.isotropic import TokenHead

from .models import ours
from .server import Answer, Server, serving

NAME = "toy_published"


class Toy(Backbone):
    """A network of one convolution."""

    def __init__(self, dim: int = 8, in_chans: int = 3, num_classes: int = 10, drop_rate: float = 0.0) -> None:
        super().__init__(dim, in_chans, num_classes, drop_rate)
        self.stem = nn.Conv2d(in_chans, dim, 8, 8)
        self._add_head(TokenHead(dim, num_classes, "avg", drop_rate, num_prefix_tokens=0))

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, L, C)."""
        return self.stem(x).flatten(2).transpose(1, 2)


family = Family(
    __name__,
    Toy,
    filter_by(lambda name: name.replace("official.", "")),
    code="https://example.org/toy",
    paper="0000.00000",
    license="mit",
    first_conv="stem",
)
family.register({NAME: family.variant("One convolution.", "https://example.org/toy.pth", tag="in1k")})


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    return {f"official.{name}": x for name, x in timm.create_model(NAME).state_dict().items()}


@pytest.fixture(scope="module")
def file(weights: dict[str, Tensor]) -> bytes:
    torch.save({"model": weights}, stream := io.BytesIO())
    return stream.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., nn.Module]:
    """Creates the model with sources of its own, and a cache of its own."""
    cfg = _registry._model_pretrained_cfgs[f"{NAME}.in1k"]
    monkeypatch.setenv("ATTNZOO_DOWNLOAD_TIMEOUT", "0.5")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)

    def create(url: str = "", hub: str = "", **arguments: object) -> nn.Module:
        fresh = dataclasses.replace(cfg, url=url, hf_hub_id=hub or None)
        monkeypatch.setitem(_registry._model_pretrained_cfgs, f"{NAME}.in1k", fresh)
        return timm.create_model(NAME, pretrained=True, cache_dir=str(tmp_path), **arguments)

    return create


@pytest.fixture
def hub(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A repository on the server, which takes the place of the Hugging Face Hub."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    return "owner/toy"


def on_hub(body: bytes) -> Answer:
    tag = hashlib.sha256(body).hexdigest()
    return Answer(body, headers={"ETag": f'"{tag}"', "X-Repo-Commit": "1" * 40, "X-Linked-Size": str(len(body))})


def is_loaded(model: nn.Module, weights: dict[str, Tensor]) -> bool:
    return all(torch.equal(x, weights[f"official.{name}"]) for name, x in model.state_dict().items())


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".lock"))


FAULTS = {
    "missing": (Answer(status=404), "HTTP 404 Not Found"),
    "broken": (Answer(status=500), "HTTP 500 Internal Server Error"),
    "a page": (Answer(b"<html>log in</html>", headers={"Content-Type": "text/html"}), "a web page instead of a file"),
    "cut off": (Answer(b"x" * 1000, sent=10), "the transfer ended after 10 of 1000 bytes"),
    "empty": (Answer(b""), "cannot be read"),
    "reset": (Answer(is_reset=True), "no connection: Connection reset by peer"),
    "slow": (Answer(b"x", wait=1), r"no answer within 0\.5 s"),
    "no weights": (Answer(b"x" * 1000), "cannot be read"),
    "in circles": (Answer(status=302, headers={"Location": "/toy.pth"}), "HTTP 302"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_source_that_fails_is_told_with_its_reason_and_leaves_no_file(
    fault: str, server: Server, load: Callable[..., nn.Module], tmp_path: Path
) -> None:
    answer, reason = FAULTS[fault]
    server.answers["/toy.pth"] = answer
    with pytest.raises(WeightsError, match=reason) as told:
        load(f"{server.url}/toy.pth")
    said = str(told.value)
    assert f"{server.url}/toy.pth" in said
    assert "pretrained_cfg_overlay={'file': path}" in said
    assert "\n" not in said
    assert visible(tmp_path) in ([], [".partial.toy.pth"])


def test_a_file_that_cannot_be_written_is_told(
    server: Server,
    load: Callable[..., nn.Module],
    file: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.answers["/toy.pth"] = Answer(file)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("attnzoo.base.download._copy", fail)
    with pytest.raises(WeightsError, match=r"No space left on device: .*toy\.pth"):
        load(f"{server.url}/toy.pth")
    (tmp_path / "toy").touch()
    monkeypatch.setattr("attnzoo.base.sources._place", lambda *_: tmp_path / "toy" / "toy.pth")
    with pytest.raises(WeightsError, match=r"cannot be written: .*toy"):
        load(f"{server.url}/toy.pth")


def test_redirects_are_followed_and_a_file_in_the_cache_is_used_without_a_request(
    server: Server, load: Callable[..., nn.Module], weights: dict[str, Tensor], file: bytes, tmp_path: Path
) -> None:
    # links of file-sharing services have no file name
    server.answers["/share?id=7"] = Answer(status=302, headers={"Location": "/there/x.bin"})
    server.answers["/there/x.bin"] = Answer(file)
    assert is_loaded(load(f"{server.url}/share?id=7"), weights)
    assert visible(tmp_path) == [f"{NAME}.in1k.pth"]
    assert server.asked() == ["/share?id=7", "/there/x.bin"]
    assert is_loaded(load(f"{server.url}/share?id=7"), weights)
    assert len(server.requests) == 2
    # other classes: the published ones are not loaded
    assert load(f"{server.url}/share?id=7", num_classes=3).num_classes == 3


@pytest.mark.parametrize("case", ["continued", "another version", "no ranges", "no version"])
def test_a_transfer_that_was_interrupted_is_continued_or_starts_again(
    case: str, server: Server, load: Callable[..., nn.Module], weights: dict[str, Tensor], file: bytes, tmp_path: Path
) -> None:
    tag = {} if case == "no version" else {"ETag": '"1"'}
    server.answers["/toy.pth"] = Answer(file, headers=tag, sent=100, ranges=False)
    with pytest.raises(WeightsError, match=f"ended after 100 of {len(file)} bytes"):
        load(f"{server.url}/toy.pth")
    assert (tmp_path / ".partial.toy.pth").stat().st_size == 100
    server.requests.clear()
    tag = {"another version": {"ETag": '"2"'}}.get(case, tag)
    server.answers["/toy.pth"] = Answer(file, headers=tag, ranges=case != "no ranges")
    assert is_loaded(load(f"{server.url}/toy.pth"), weights)
    ((_, _, headers),) = server.requests
    assert headers.get("Range") == (None if case == "no version" else "bytes=100-")
    assert visible(tmp_path) == ["toy.pth"]


def test_a_connection_that_breaks_is_taken_up_again_at_once(
    server: Server, load: Callable[..., nn.Module], weights: dict[str, Tensor], file: bytes
) -> None:
    server.answers["/toy.pth"] = Answer(file, headers={"ETag": '"1"'}, sent=100, times=2)
    assert is_loaded(load(f"{server.url}/toy.pth"), weights)
    assert [headers.get("Range") for _, _, headers in server.requests] == [None, "bytes=100-", "bytes=200-"]


def test_a_file_that_several_want_is_downloaded_once(
    server: Server, load: Callable[..., nn.Module], weights: dict[str, Tensor], file: bytes
) -> None:
    server.answers["/toy.pth"] = Answer(file, wait=0.2)
    with ThreadPoolExecutor(4) as pool:
        models = list(pool.map(lambda _: load(f"{server.url}/toy.pth"), range(4)))
    assert all(is_loaded(model, weights) for model in models)
    assert server.asked() == ["/toy.pth"]


@pytest.mark.parametrize("is_right", [True, False])
def test_the_digest_in_a_name_is_checked(
    is_right: bool, server: Server, load: Callable[..., nn.Module], file: bytes, tmp_path: Path
) -> None:
    digest = hashlib.sha256(file if is_right else b"").hexdigest()[:8]
    server.answers[f"/toy-{digest}.pth"] = Answer(file)
    if is_right:
        load(f"{server.url}/toy-{digest}.pth")
    else:
        with pytest.raises(WeightsError, match=f"its SHA-256 begins with .* instead of {digest}"):
            load(f"{server.url}/toy-{digest}.pth")
        assert visible(tmp_path) == []


def test_a_damaged_file_in_the_cache_is_downloaded_again(
    server: Server, load: Callable[..., nn.Module], weights: dict[str, Tensor], file: bytes, tmp_path: Path
) -> None:
    (tmp_path / "toy.pth").write_bytes(file[:500])
    server.answers["/toy.pth"] = Answer(file)
    assert is_loaded(load(f"{server.url}/toy.pth"), weights)
    assert (tmp_path / "toy.pth").read_bytes() == file


def test_weights_of_another_network_are_refused_also_with_other_classes(
    server: Server, load: Callable[..., nn.Module], weights: dict[str, Tensor], tmp_path: Path
) -> None:
    wrong = {"official.stem.weight": torch.zeros(1), "stray": torch.zeros(1)}
    torch.save(wrong, tmp_path / "toy.pth")
    reason = (
        "toy.pth does not hold the weights of this model: of its 2 tensors, 3 are missing, such as head.fc.bias; "
        "1 are not the model's, such as stray; 1 have another shape, such as stem.weight"
    )
    with pytest.raises(WeightsError, match=re.escape(reason)):
        load(f"{server.url}/toy.pth", num_classes=3)
    assert server.requests == []


def test_the_next_source_is_tried_and_the_model_says_which_was_used(
    server: Server,
    hub: str,
    load: Callable[..., nn.Module],
    weights: dict[str, Tensor],
    file: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server.answers["/toy.pth"] = Answer(file)
    with caplog.at_level(logging.WARNING, "attnzoo"):
        model = load(f"{server.url}/toy.pth", hub)
    assert is_loaded(model, weights)
    (record,) = (record for record in caplog.records if record.name.startswith("attnzoo"))
    assert record.getMessage() == (
        f"{NAME}.in1k: no weights from https://huggingface.co/{hub}: HTTP 404, there is no such repository; "
        "trying the next source"
    )
    assert model.pretrained_cfg["url"] == f"{server.url}/toy.pth"
    assert "hf_hub_id" not in model.pretrained_cfg


@pytest.mark.parametrize("kind", ["model.safetensors", "pytorch_model.bin"])
def test_a_repository_comes_first_and_its_safetensors_before_a_pickle(
    kind: str,
    server: Server,
    hub: str,
    load: Callable[..., nn.Module],
    weights: dict[str, Tensor],
    file: bytes,
) -> None:
    server.answers["/toy.pth"] = Answer(file)
    missing = Answer(status=404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": "1" * 40})
    place = f"/{hub}/resolve/main"
    server.answers[f"{place}/model.safetensors"] = missing
    server.answers[f"{place}/pytorch_model.bin"] = on_hub(file)
    if kind == "model.safetensors":
        server.answers[f"{place}/{kind}"] = on_hub(safetensors.torch.save(weights))
    model = load(f"{server.url}/toy.pth", hub)
    assert is_loaded(model, weights)
    assert model.pretrained_cfg["hf_hub_id"] == hub
    assert model.pretrained_cfg["file"].endswith(kind)
    assert server.asked() == [f"{place}/{kind}"]
    server.requests.clear()
    assert is_loaded(load(f"{server.url}/toy.pth", hub), weights)
    assert server.requests == []
    # damaged in the cache
    Path(model.pretrained_cfg["file"]).resolve().write_bytes(b"x")
    assert is_loaded(load(f"{server.url}/toy.pth", hub), weights)
    assert server.asked() == [f"{place}/{kind}"]


@pytest.mark.parametrize("case", ["offline", "no connection", "broken"])
def test_without_a_connection_one_error_names_all_sources_at_once(
    case: str, server: Server, hub: str, load: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = "http://127.0.0.1:9"
    reason = "HTTP 503 Service Unavailable"
    if case == "offline":
        reason = "not in the cache, and HF_HUB_OFFLINE is set"
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    if case == "no connection":
        reason = "no connection: Connection refused"
        template = f"{nowhere}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", nowhere)
    if case == "broken":
        server.answers[f"/{hub}/resolve/main/model.safetensors"] = Answer(status=503)
    start = time.perf_counter()
    with pytest.raises(WeightsError) as told:
        load(f"{nowhere}/toy.pth", hub)
    assert time.perf_counter() - start < 2
    assert str(told.value) == (
        f"the weights of {NAME}.in1k could not be had from any source: https://huggingface.co/{hub}: {reason}; "
        f"{nowhere}/toy.pth: no connection: Connection refused. Download a file by hand (see https://example.org/toy) "
        "and pass pretrained_cfg_overlay={'file': path}"
    )


def test_a_source_that_the_caller_names_is_left_to_timm(
    load: Callable[..., nn.Module], file: bytes, weights: dict[str, Tensor], tmp_path: Path
) -> None:
    (tmp_path / "mine.pth").write_bytes(file)
    assert is_loaded(load(pretrained_cfg_overlay={"file": str(tmp_path / "mine.pth")}), weights)


def test_a_timeout_that_is_no_number_is_told(load: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTNZOO_DOWNLOAD_TIMEOUT", "soon")
    with pytest.raises(WeightsError, match="ATTNZOO_DOWNLOAD_TIMEOUT must be a positive number of seconds, got 'soon'"):
        load("http://127.0.0.1:9/toy.pth")


def test_networks_that_timm_has_come_from_timms_repositories_first() -> None:
    found = {}
    for name in ours():
        cfg = timm.get_pretrained_cfg(name)
        listed = sources_of(cfg)
        architecture = name.removeprefix("zoo_").partition("_22k")[0]
        if name.startswith("zoo_") and listed and timm.is_model(architecture):
            found[name] = listed[0].repository
            assert listed[0].repository == timm.get_pretrained_cfg(found[name].removeprefix("timm/")).hf_hub_id
            assert found[name].startswith(f"timm/{architecture}.")
    assert len(found) == 40


def test_addresses_on_the_hub_are_repositories() -> None:
    converted, source = sources_of(timm.get_pretrained_cfg("van_b0"))
    assert (converted.repository, converted.filename) == ("Visual-Attention-Network/van-tiny", "")
    assert (source.repository, source.filename) == (
        "Visual-Attention-Network/VAN-Tiny-original",
        "van_tiny_754.pth.tar",
    )
    assert str(source) == timm.get_pretrained_cfg("van_b0").url
    *_, file = sources_of(timm.get_pretrained_cfg("zoo_halonet26t"))
    assert file.digest == "3083328c"


# the smallest network of each kind that timm has
OF_TIMM = [
    "zoo_shvit_s1",
    *(
        pytest.param(name, marks=pytest.mark.full)
        for name in (
            "zoo_halonet26t",
            "zoo_mambaout_femto",
            "zoo_swiftformer_xs",
            "zoo_davit_tiny",
            "zoo_swin_tiny_patch4_window7_224",
            "zoo_twins_svt_small",
        )
    ),
]


@pytest.mark.parametrize("name", OF_TIMM)
def test_weights_in_timms_names_are_read(name: str) -> None:
    theirs, ours = timm.create_model(name.removeprefix("zoo_")).eval(), timm.create_model(name).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.05)
    ours.load_state_dict(checkpoint_filter(name)(dict(theirs.state_dict()), ours))
    images = torch.randn(1, *timm.get_pretrained_cfg(name).input_size)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)
