"""The benchmarks stay alive: one small row, checked and timed, and its file."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*arguments: str, benchmark: str = "neighborhood") -> subprocess.CompletedProcess:
    command = [sys.executable, f"benchmarks/{benchmark}.py", *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)


def test_a_row_is_measured_and_written(tmp_path: Path) -> None:
    done = run("--quick", "--only", "7x7", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "7x7 h16" in done.stdout
    (path,) = tmp_path.glob("neighborhood-cpu-*.json")
    results = json.loads(path.read_text())
    assert {"cpu", "torch", "threads", "method", "notes"} <= set(results)
    assert [row["direction"] for row in results["rows"]] == ["forward", "forward+backward"]
    for row in results["rows"]:
        assert set(row["ours_over"]) == {"gather", "dense", "trial"}
        assert row["ours_over"]["gather"]["p10"] <= row["ours_over"]["gather"]["p90"]


def test_a_row_of_windows_is_measured_and_written(tmp_path: Path) -> None:
    done = run("--quick", "--only", "7x7 h24 B1", "--out", str(tmp_path), benchmark="window")
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("window-cpu-*.json")
    results = json.loads(path.read_text())
    assert [row["direction"] for row in results["rows"]] == ["forward", "forward+backward"]
    assert all(set(row["ours_over"]) == {"timm", "partition+SDPA"} for row in results["rows"])


def test_an_unknown_row_is_refused(tmp_path: Path) -> None:
    done = run("--only", "nothing", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "--only 'nothing' fits no row: 56x56 h2 B1" in done.stderr
