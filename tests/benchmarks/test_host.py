"""The measurement of the host's time per call, in a process of its own: Triton's interpreter must be off."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from benchmarks.recording_driver import compiler

ROOT = Path(__file__).parents[2]


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.skipif(compiler() is None, reason="Triton's launcher needs a C compiler")
def test_every_operator_is_measured(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks", "host", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = tmp_path.glob("host-*.json")
    rows = json.loads(path.read_text())["rows"]
    *operators, nothing = [row["operator"] for row in rows]
    assert (len(operators), nothing) == (7, "nothing")
    assert all(row["forward"] > 0 and row["backward"] > 0 for row in rows)
