"""Networks that were pickled as a whole are read without their classes, and without running anything."""

from __future__ import annotations

import os
import pickle
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import timm
import torch
from torch import nn

from attnzoo.base.pickled import plain_file, state_dict_of
from attnzoo.tools.weights import read_file


class Theirs(nn.Module):
    """A network of another library, with things that are no tensors."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("unstored", torch.ones(2), persistent=False)
        self.names, self.folder, self.save = {0: "ant"}, Path("runs"), [1, 2]


class Hostile:
    """An object whose unpickling runs a command."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.fixture
def pickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, nn.Module]:
    """A file with a network in float16, whose class is gone, and the network."""
    module = ModuleType("their_library")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(Theirs, "__module__", module.__name__)
    module.Theirs = Theirs
    network = Theirs(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).half()
    path = tmp_path / "theirs.pt"
    torch.save({"epoch": -1, "model": network, "ema": None, "hostile": Hostile(tmp_path / "made")}, path)
    monkeypatch.delitem(sys.modules, module.__name__)
    return path, network


def test_the_state_dict_is_that_of_the_network(pickled: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, network = pickled
    expected = {name: x.float() if x.is_floating_point() else x for name, x in network.state_dict().items()}
    for found in (state_dict_of(path), read_file(path)):
        assert list(found) == list(expected)
        assert all(torch.equal(found[name], x) and found[name].dtype == x.dtype for name, x in expected.items())
    assert not (tmp_path / "made").exists()


def test_a_copy_without_code_is_written_once(pickled: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, network = pickled
    copy = plain_file(path)
    assert copy.name == "theirs.pt.safetensors"
    assert read_file(copy).keys() == network.state_dict().keys()
    written = copy.stat().st_mtime_ns
    assert plain_file(path) == copy
    assert copy.stat().st_mtime_ns == written
    assert sorted(x.name for x in tmp_path.iterdir()) == ["theirs.pt", "theirs.pt.safetensors"]


def test_other_files_stay_as_they_are(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "plain.pt")
    torch.save({"hostile": Hostile(tmp_path / "made")}, tmp_path / "hostile.pt")
    (tmp_path / "damaged.pt").write_bytes(b"no file of torch")
    for name in ("plain.pt", "hostile.pt", "damaged.pt"):
        assert plain_file(tmp_path / name) == tmp_path / name
    assert state_dict_of(tmp_path / "hostile.pt") is None
    assert not (tmp_path / "made").exists()
    with pytest.raises(ValueError, match=r"contains more than tensors, numbers and text: posix\.mkdir|nt\.mkdir"):
        read_file(tmp_path / "hostile.pt")


def test_the_old_format_of_torch_runs_nothing_either(tmp_path: Path) -> None:
    path = tmp_path / "old.pt"
    path.write_bytes(pickle.dumps(Hostile(tmp_path / "made")))
    assert state_dict_of(path) is None
    torch.save(Theirs(nn.Linear(2, 2)), path, _use_new_zipfile_serialization=False)
    state_dict_of(path)
    assert not (tmp_path / "made").exists()


def test_a_file_cannot_change_a_function_of_torch(tmp_path: Path) -> None:
    poison = b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\0\0\0__defaults__X\x04\0\0\0evil\x85s\x86b."
    path = tmp_path / "poison.pt"
    torch.save({}, path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, poison if name.endswith("data.pkl") else content)
    before = torch._utils._rebuild_tensor_v2.__defaults__
    assert state_dict_of(path) is None
    assert torch._utils._rebuild_tensor_v2.__defaults__ == before


def test_odd_networks(tmp_path: Path) -> None:
    path, network = tmp_path / "odd.pt", Theirs(nn.Linear(2, 2))
    # attributes of parameters, and layers that share one
    network.model.weight.undecayed = True
    network.tied = nn.Linear(2, 2, bias=False)
    network.tied.weight = network.model.weight
    torch.save(network, path)
    assert state_dict_of(path).keys() == network.state_dict().keys()
    assert read_file(plain_file(path)).keys() == network.state_dict().keys()
    network.model.weight = nn.Parameter(torch.zeros(1).expand(3000, 3000))
    torch.save(network, path)
    assert state_dict_of(path) is None
    network.__dict__["_modules"]["tied"] = network
    torch.save(network, path)
    assert state_dict_of(path) is None


def test_a_detector_of_yolov12_is_loaded_as_released(tmp_path: Path) -> None:
    from attnzoo.tools.official import official_weights

    torch.manual_seed(1)
    ours = timm.create_model("yolov12n")
    official, _ = official_weights(ours, "yolov12n")
    root = nn.Module()
    for name, tensor in official.items():
        place = root
        *parents, last = name.split(".")
        for parent in parents:
            if parent not in place._modules:
                place.add_module(parent, nn.Module())
            place = place._modules[parent]
        place.register_buffer(last, tensor)
    torch.save({"model": root.half()}, tmp_path / "yolov12n.pt")
    model = timm.create_model("yolov12n", pretrained=True, cache_dir=str(tmp_path))
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)
