"""A run that is killed continues to the same weights as one that is not."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="trainings are forked to be killed")


def kill(directory, count, seed):
    command = [sys.executable, str(Path(__file__).with_name("kill_points.py")), str(directory), str(count), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.full
@pytest.mark.parametrize(
    ("count", "seed"), [pytest.param(5, 0, id="5"), pytest.param(30, 1, id="30", marks=pytest.mark.slow)]
)
def test_a_run_killed_anywhere_ends_in_the_same_weights(tmp_path, count, seed):
    report = kill(tmp_path, count, seed)
    assert len(report) == count
    assert all(point["same"] for point in report), report
    assert not any(point["left"] for point in report), report
    # most kills were during a run, and some after a checkpoint
    assert sum(point["killed"] for point in report) >= count // 2, report
    assert any(point["step"] for point in report if point["killed"]), report


@pytest.mark.parametrize(
    ("received", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.full)]
)
def test_a_signal_stores_the_run_and_ends_it(tmp_path, received, code):
    options = ("model.name=test_resnet", "epochs=50", "batch_size=64", "save_interval=0")
    command = [sys.executable, "-m", "attnzoo.tools.train", "classification/digits", *options, "--work-dir", tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "last.pth").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    process.send_signal(received)
    _, said = process.communicate(timeout=200)
    assert process.returncode == code, said
    step = torch.load(tmp_path / "last.pth", weights_only=True)["step"]
    # on a busy machine a step that takes long is said before
    assert said.splitlines()[-1] == (
        f"stopped by {received.name} after step {step} of 1100; the run is stored, continue it with --resume"
    )
    assert step < 1100
