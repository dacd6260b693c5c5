"""`python -m benchmarks training` and `python -m benchmarks scaling`, on small inputs."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from attnzoo.tools.timing import peak_bytes
from benchmarks import training
from benchmarks.__main__ import main
from benchmarks.result_table import table


def bench(*arguments: str) -> str:
    done = CliRunner().invoke(main, [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


def results(folder: Path, what: str) -> dict:
    (path,) = folder.glob(f"{what}-cpu-*.json")
    found = json.loads(path.read_text())
    assert {"cpu", "torch", "load_average", "notes", "columns"} <= set(found)
    assert all(set(found["columns"]) <= set(row) for row in found["rows"])
    # header, separator and rows
    assert len(table(found).splitlines()) == 2 + len(found["rows"])
    return found


@pytest.mark.full
def test_the_loop_and_bare_steps_take_turns(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(training, "WORKERS", (0, 1))
    said = bench("training", "test_resnet", "--quick", "--out", str(tmp_path))
    # the training's own output is not shown
    assert "epoch" not in said
    (row,) = results(tmp_path, "training")["rows"]
    assert row["turns"] >= 2
    assert row["loop"]["median"] > 0
    assert 0 <= row["waiting"]["median"] <= 1
    assert row["cpu_ratio"]["median"] > 0.5
    assert [row["workers"] for row in results(tmp_path, "loading")["rows"]] == [0, 1]


def test_operators_are_measured_over_resolution(tmp_path: Path) -> None:
    bench("scaling", "--image-size", "56", "--image-size", "112", "--quick", "--out", str(tmp_path))
    rows = results(tmp_path, "scaling")["rows"]
    assert len(rows) == 3 * 2
    for small, large in zip(rows[::2], rows[1::2], strict=True):
        growth = 16 if small["operator"] == "routed" else 4
        assert large["forward_multiply_adds"] == growth * small["forward_multiply_adds"]
        assert large["training_mib"] >= large["forward_mib"] > small["forward_mib"]


def test_a_size_that_does_not_divide_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["scaling", "--image-size", "100", "--out", str(tmp_path)])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "must be a multiple of 28, for whole windows, got 100" in done.stderr


@pytest.mark.parametrize("count", [1, 3])
def test_peak_memory_is_what_is_alive_at_once(count: int) -> None:
    def call() -> None:
        alive = [torch.empty(1000) for _ in range(count)]
        del alive
        torch.empty(500)

    assert peak_bytes(call, torch.device("cpu")) == pytest.approx(4000 * count, rel=0.05)
