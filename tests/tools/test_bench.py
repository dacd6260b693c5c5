"""`attnzoo bench` on tiny models: only correct results are timed, and failures are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from attnzoo.tools import cli
from attnzoo.tools.bench import kernels, models
from attnzoo.tools.bench.models import training_step

pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")


def bench(*arguments: str) -> Result:
    return CliRunner().invoke(cli.main, ["bench", *arguments])


def rows_of(folder: Path) -> list[dict[str, Any]]:
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())["rows"]


def test_two_models_in_two_runtimes(tmp_path: Path) -> None:
    command = ["test_resnet", "test_efficientnet", "--image-size", "64", "--batch", "2", "--runtime", "onnxruntime"]
    done = bench(*command, "--seconds", "0", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    rows = rows_of(tmp_path)
    assert [(row["model"], row["runtime"]) for row in rows] == [
        (name, runtime) for name in ("test_resnet", "test_efficientnet") for runtime in ("eager", "onnxruntime")
    ]
    for row in rows:
        times, rates = row["milliseconds"], row["images_per_second"]
        assert (row["image_size"], row["batch"], row["direction"]) == (64, 2, "inference")
        assert 2e3 / times["p90"] <= rates["median"] * 1.001
        assert rates["median"] <= 2e3 / times["p10"] * 1.001
        assert (row["peak_bytes"] is None) == (row["runtime"] == "onnxruntime")
        assert (row["over_eager"] is None) == (row["runtime"] == "eager")
    assert "images/s" in done.output
    # a plot next to the results
    assert [path.suffix for path in sorted(tmp_path.iterdir())] == [".json", ".png"]


def test_options_may_come_first(tmp_path: Path) -> None:
    done = bench("--out", str(tmp_path), "--batch", "1", "--runtime", "eager", "--seconds", "0", "test_resnet")
    assert done.exit_code == 0, done.output
    assert [row["model"] for row in rows_of(tmp_path)] == ["test_resnet"]


def test_training_steps_are_rows_of_their_own(tmp_path: Path) -> None:
    command = ["models", "nat_pico", "--training", "--image-size", "64", "--batch", "2", "--runtime", "fused"]
    done = bench(*command, "--seconds", "0", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    rows = rows_of(tmp_path)
    assert [(row["direction"], row["runtime"]) for row in rows] == [
        ("inference", "eager"),
        ("inference", "fused"),
        ("training", "eager"),
    ]
    assert rows[2]["peak_bytes"] > rows[0]["peak_bytes"]


def test_a_wrong_answer_is_not_timed_and_fails_the_command(tmp_path: Path, monkeypatch) -> None:
    right = models.RUNTIMES["fused"]
    monkeypatch.setitem(models.RUNTIMES, "fused", lambda exported: lambda images: 1.01 * right(exported)(images))
    done = bench("nat_pico", "--image-size", "64", "--batch", "1", "--runtime", "fused", "--out", str(tmp_path))
    assert done.exit_code == 1
    assert "results are wrong, the first: nat_pico B1 fused: differs from eager by" in done.output
    assert [row["runtime"] for row in rows_of(tmp_path) if "milliseconds" in row] == ["eager"]


def test_a_runtime_that_fails_says_why_and_the_others_go_on(tmp_path: Path, monkeypatch) -> None:
    def missing(exported):
        raise ModuleNotFoundError("No module named 'openvino'", name="openvino")

    monkeypatch.setitem(models.RUNTIMES, "openvino", missing)
    command = ["test_resnet", "--image-size", "32", "--batch", "1", "--runtime", "openvino", "--runtime", "fused"]
    done = bench(*command, "--seconds", "0", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "openvino" in done.output
    assert {row["runtime"]: "error" in row for row in rows_of(tmp_path)} == {
        "eager": False,
        "fused": False,
        "openvino": True,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["nat_pica"], "'nat_pica' is not a model name", id="name"),
        pytest.param(["test_vit", "--image-size", "60"], "choose another image size", id="size"),
        pytest.param(["kernels", "--only", "nothing"], "--only 'nothing' matches no row", id="row"),
        pytest.param(["nat_pico", "--runtime", "tensorrt"], "'tensorrt' is not one of", id="runtime"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = bench(*arguments, "--out", str(tmp_path / "out"))
    assert done.exit_code == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["kernels"], ["nat_pico"]])
def test_a_folder_that_cannot_be_written_is_told_before_the_work(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "file").touch()
    done = bench(*command, "--out", str(tmp_path / "file" / "out"))
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1), done.output
    assert "file is not writable: " in done.stderr
    assert "choose another --out" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
@pytest.mark.parametrize("command", ["kernels", "models"])
def test_an_absent_device_is_said(command: str) -> None:
    done = bench(command, *(["nat_pico"] if command == "models" else []), "--device", "cuda")
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.strip().endswith("torch found none: use device cpu")


def test_a_training_step_changes_a_copy() -> None:
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 10)).eval()
    before = network[1].weight.detach().clone()
    images = torch.randn(2, 3, 2, 2)
    step = training_step(network, images, is_compiled=False)
    step()
    (copied,) = (cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, torch.nn.Module))
    assert torch.equal(network[1].weight, before)
    assert copied.training
    assert not torch.equal(copied[1].weight, before)
    assert all(x.grad is None for x in copied.parameters())


def test_kernels_are_measured_in_both_directions(tmp_path: Path) -> None:
    done = bench("kernels", "--only", "7x7", "--seconds", "0", "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    rows = rows_of(tmp_path)
    assert rows
    assert all(row["milliseconds"]["median"] > 0 for row in rows)


def test_a_wrong_kernel_is_not_timed(tmp_path: Path, monkeypatch) -> None:
    # nothing in float32 is as exact as this
    monkeypatch.setitem(kernels.TOLERANCE, torch.float32, 0.0)
    done = bench("kernels", "--only", "window 7x7", "--seconds", "0", "--out", str(tmp_path))
    assert done.exit_code == 1
    assert "the first: window 7x7 h24 w7 shift 0 float32: differs from the reference" in done.output
    assert all("milliseconds" not in row for row in rows_of(tmp_path))
