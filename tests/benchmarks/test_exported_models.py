"""`python -m benchmarks export` on tiny models: only correct runtimes are timed, and failures have a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config
from click.testing import CliRunner

from attnzoo.blocks import NeighborhoodAttention
from attnzoo.tools.export import onnx_file
from benchmarks import accuracy_picture, export, runtimes
from benchmarks.__main__ import main

pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")


def rows_of(name: str, chosen: tuple[str, ...], batches: tuple[int, ...] = (1,), side: int | None = 64):
    return list(export.measure(name, batches, side, ("eager", *chosen), rounds=2, seconds=0))


@pytest.mark.full
def test_the_command_writes_a_row_for_each_model(tmp_path: Path) -> None:
    command = ["export", "nat_pico", "test_resnet", "--image-size", "64", "--batch", "2", "--quick"]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("export-cpu-*.json")
    results = json.loads(path.read_text())
    assert {"cpu", "torch", "onnxruntime", "openvino", "method", "notes", "columns"} <= set(results)
    first, second = results["rows"]
    assert (first["model"], first["batch"], first["image_size"]) == ("nat_pico", 2, [64, 64])
    for name in ("eager", "fused", "onnxruntime", "gather"):
        assert first[name]["p10"] <= first[name]["median"] <= first[name]["p90"]
        assert first["differences"][name] <= export.TOLERANCE
    assert first["onnxruntime_over_eager"]["median"] > 0
    assert first["onnxruntime_over_gather"]["median"] > 0
    assert first["file_bytes"] > 0
    # a quick run compiles nothing, and only our model has neighborhood attention
    assert first["compile"] == first["aoti"] == second["gather"] == "-"
    assert "no neighborhood attention" in second["reasons"]["gather"]


@pytest.mark.full
def test_openvino_agrees_or_is_said_to_be_missing() -> None:
    (row,) = rows_of("shvit_pico", ("openvino",))
    if row["openvino"] == "-":
        assert "openvino" in row["reasons"]["openvino"]
    else:
        assert row["differences"]["openvino"] <= export.TOLERANCE


@pytest.mark.full
def test_a_row_for_each_batch_from_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    to_graph = onnx_file.to_graph
    monkeypatch.setattr(onnx_file, "to_graph", lambda *a: written.append(a) or to_graph(*a))
    rows = rows_of("test_resnet", ("onnxruntime",), batches=(1, 3))
    assert [row["batch"] for row in rows] == [1, 3]
    assert len(written) == 1


def test_a_wrong_answer_is_not_timed_and_fails_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = runtimes.RUNTIMES["onnxruntime"]
    wrong = {"onnxruntime": lambda exported: lambda images: 1.01 * right(exported)(images)}
    monkeypatch.setattr(export, "RUNTIMES", {**runtimes.RUNTIMES, **wrong})
    command = ["export", "test_resnet", "--image-size", "32", "--runtime", "onnxruntime", "--quick"]
    done = CliRunner().invoke(main, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 1
    assert "results are wrong, the first: test_resnet B1, onnxruntime differs from eager by 1.0e-02" in done.output
    (path,) = tmp_path.glob("*.json")
    assert {row["onnxruntime"] for row in json.loads(path.read_text())["rows"]} == {"-"}


def test_a_runtime_that_fails_says_why() -> None:
    # monkeypatch cannot restore this entry of the configuration
    with torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")}):
        (row,) = rows_of("test_resnet", ("aoti", "fused"))
    assert "no C++ compiler was found" in row["reasons"]["aoti"]
    assert row["fused"] != "-"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", [{}, {"dilation": (2, 1)}, {"stride": 2}], ids=str)
def test_the_gather_computes_the_block(options: dict[str, Any], bias: bool) -> None:
    block = NeighborhoodAttention(12, 2, kernel_size=(3, 5), bias=bias, **options).eval()
    x = torch.randn(2, 11, 9, 12)
    with torch.no_grad():
        expected = block(x)
        block.__class__, block.gathers = runtimes.GatherAttention, {}
        torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["nat_pica"], "'nat_pica' is not a model name", id="name"),
        pytest.param(["test_vit", "--image-size", "60"], "choose another image size", id="size"),
    ],
)
def test_mistakes_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(main, ["export", *arguments, "--quick", "--out", str(tmp_path)])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert message in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_models_measured_by_default_have_published_accuracy() -> None:
    names = export.names()
    assert {"nat_mini", "zoo_shvit_s1", "biformer_tiny", "agent_deit_tiny", "overlock_xt"} <= set(names)
    assert not any(name.endswith(("_pico", "_384")) for name in names)


def test_the_picture_shows_published_models_by_family(tmp_path: Path) -> None:
    times = {"onnxruntime": {"median": 2.0}, "eager": {"median": 5.0}, "batch": 1}
    rows = [
        {"model": "nat_tiny", "top1": 83.2, **times},
        {"model": "nat_mini", "top1": 81.8, **times, "onnxruntime": {"median": 1.0}},
        {"model": "nat_pico", "top1": None, **times},
        {"model": "zoo_shvit_s1", "top1": 72.8, **times, "onnxruntime": "-"},
    ]
    assert accuracy_picture.draw(tmp_path / "a.png", rows)
    assert (tmp_path / "a.png").stat().st_size > 1000
    assert not accuracy_picture.draw(tmp_path / "b.png", rows[2:])
    assert not (tmp_path / "b.png").exists()
    assert [row["model"] for row in accuracy_picture.by_family(rows[:2])["nat"]] == ["nat_mini", "nat_tiny"]
