"""The device of a command: its names, what is missing, and that networks need no float64, which Apple's GPUs lack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attnzoo.tools import cli
from attnzoo.tools.devices import choose_device
from tests.tiers import quick
from tests.zoo.models import SMALL


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def have(gpus: int, mps: bool = False) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return have


@pytest.mark.parametrize(
    ("name", "gpus", "mps", "process", "processes", "chosen"),
    [
        ("auto", 0, False, 0, 1, "cpu"),
        ("auto", 2, False, 0, 1, "cuda:0"),
        ("auto", 2, False, 1, 2, "cuda:1"),
        ("auto", 0, True, 0, 1, "mps"),
        ("auto", 0, True, 1, 2, "cpu"),
        ("cpu", 2, True, 0, 1, "cpu"),
        ("cuda", 2, False, 1, 4, "cuda:1"),
        ("cuda:1", 2, False, 0, 1, "cuda:1"),
        ("mps", 0, True, 0, 1, "mps"),
    ],
)
def test_a_name_is_a_device(
    machine: Any, name: str, gpus: int, mps: bool, process: int, processes: int, chosen: str
) -> None:
    machine(gpus, mps)
    assert choose_device(name, process, processes) == torch.device(chosen)


@pytest.mark.parametrize(
    ("name", "gpus", "process", "processes", "says"),
    [
        ("gpu", 1, 0, 1, "device must be auto, cpu, cuda, cuda:N .*or mps, got 'gpu'"),
        ("cuda", 0, 0, 1, "torch found none: use device cpu"),
        ("cuda:2", 2, 0, 1, "cuda:2 is not there: torch found 2 GPUs"),
        ("cuda:1", 2, 0, 2, "is one GPU, and there are 2 processes"),
        ("cuda", 2, 2, 3, "process 2 of this machine has no GPU.*--nproc-per-node 2"),
        ("mps", 0, 0, 1, "device mps needs a Mac"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    machine: Any, name: str, gpus: int, process: int, processes: int, says: str
) -> None:
    machine(gpus)
    with pytest.raises(ValueError, match=says):
        choose_device(name, process, processes)


def test_every_command_takes_a_device(tmp_path: Path) -> None:
    run, data = tmp_path / "run", "classification/digits"
    (tmp_path / "pictures").mkdir()
    picture = tmp_path / "picture.png"
    Image.new("RGB", (64, 64)).save(picture)
    commands = [
        ["train", data, "model.name=test_resnet", "epochs=1", "--work-dir", run],
        ["evaluate", run, data],
        ["predict", run, tmp_path / "pictures"],
        ["export", run, "--output", tmp_path / "model.onnx"],
        ["see", run, picture],
        ["bench", "test_resnet"],
        ["bench", "kernels"],
        ["demo", "--work-dir", tmp_path / "demo"],
    ]
    for command in commands:
        for spelled in (["device=cuda:7"], ["--device", "cuda:7"]):
            result = CliRunner().invoke(cli.main, [*map(str, command), *spelled])
            lines = result.stderr.splitlines()
            assert (result.exit_code, len(lines)) == (2, 1), (command, result.output)
            assert "cuda:7" in lines[0]
    for command in commands[:2]:
        result = CliRunner().invoke(cli.main, [*map(str, command), "device=cpu"])
        assert result.exit_code == 0, result.output
        assert "cpu, 1 thread" in result.stdout


class _NoFloat64(TorchDispatchMode):
    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operator(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            is_made = isinstance(x, torch.Tensor) and x.device.type == "meta"
            assert not (is_made and x.dtype in (torch.float64, torch.complex128)), f"{operator} makes {x.dtype}"
        return result


@pytest.mark.parametrize("name", quick(SMALL, ["nat_pico", "biformer_pico", "swin_pico"]))
def test_networks_need_no_float64_on_a_device(name: str) -> None:
    # as on every device other than a CPU, without kernels
    model = timm.create_model(name).to("meta").train()
    images = torch.randn(2, *model.pretrained_cfg["input_size"], device="meta")
    with _NoFloat64():
        outputs = model(images)
        logits = outputs if isinstance(outputs, torch.Tensor) else outputs[0]
        logits.sum().backward()
        model.eval()(images)
    assert logits.device.type == "meta"
