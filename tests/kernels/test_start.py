"""Every kernel starts with the installed Triton; `make tritons` tries other versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "options", [pytest.param([], marks=pytest.mark.full), pytest.param(["--full"], marks=pytest.mark.slow)], ids=str
)
def test_every_kernel_starts(options: list[str]) -> None:
    # a process without the interpreter, whose kernels cannot be compiled
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    script = Path(__file__).with_name("start_kernels.py")
    paths = [str(script.parents[2]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    command = [sys.executable, str(script), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "starts of 19 kernels, 0 failures" in done.stdout
