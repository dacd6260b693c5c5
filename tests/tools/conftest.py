import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine import Config

from attnzoo.tools import data
from attnzoo.tools.training.config import load_config

# a small convolutional network that learns the digits in seconds
SMALL = ("model.name=test_resnet", "epochs=2", "log_interval=5")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def few_digits(monkeypatch):
    """A quarter of the digits, for tests that do not need a high accuracy."""

    def few(split):
        images = data.digits(split)
        images.pixels, images.labels = images.pixels[::4], images.labels[::4]
        return images

    monkeypatch.setitem(data.DATASETS, "digits", few)


@pytest.fixture
def small_config():
    def make(*overrides: str) -> Config:
        return load_config("classification/digits", (*SMALL, *overrides))

    return make


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run a test that forks in a fresh process: after some backward passes torch refuses to differentiate in a fork."""
    if pyfuncitem.get_closest_marker("forks") is None or "ATTNZOO_FRESH_PROCESS" in os.environ:
        return None
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", "", pyfuncitem.nodeid]
    environment = {**os.environ, "ATTNZOO_FRESH_PROCESS": "1"}
    done = subprocess.run(
        command, cwd=pyfuncitem.config.rootpath, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return True
