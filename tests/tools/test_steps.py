"""What a command is doing is said where it takes seconds, and how many processes load images."""

import time
import warnings

import pytest
from pictures import tiny_config, write_folders

from attnzoo.tools import data
from attnzoo.tools.train import train
from attnzoo_command import steps


def test_a_step_that_takes_long_is_said_once(monkeypatch, capfd):
    monkeypatch.setattr(steps, "PATIENCE", 0.05)
    monkeypatch.setattr(steps, "_FIRST_WAIT", 0.0)
    with steps.spoken_steps():
        # of imports, nothing is said when they are done
        time.sleep(0.15)
        steps.step("tracing the model")
        time.sleep(0.3)
        steps.step("quick")
        with steps.counted("evaluating batches", 3) as advance:
            advance()
    assert capfd.readouterr().err.splitlines() == ["tracing the model ...", "evaluating batches: 1 of 3"]
    steps.step("a program that calls a function hears nothing")
    time.sleep(0.15)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("cores", "processes", "count"), [(8, 1, 7), (8, 2, 3), (1, 1, 0), (2, 4, 0)])
def test_a_core_is_left_to_the_training(tmp_path, monkeypatch, cores, processes, count):
    monkeypatch.setattr(data.loading, "cores", lambda: cores)
    root = write_folders(tmp_path, train=1, val=1)
    samples = data.open_classification({"name": "imagefolder", "root": str(root), "input_size": (3, 32, 32)}, "train")
    assert data.worker_count(None, samples, processes) == count
    assert data.worker_count(5, samples, processes) == 5


def test_too_many_workers_are_said_once_in_the_summary(tmp_path, monkeypatch, capfd):
    root = write_folders(tmp_path / "pictures", train=2, val=1)
    monkeypatch.setattr("attnzoo.tools.training.session.cores", lambda: 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # torch warns of more workers than cores
        monkeypatch.setattr("torch.utils.data.dataloader.os.sched_getaffinity", lambda _: {0}, raising=False)
        train(tiny_config({"name": "imagefolder", "root": str(root)}, epochs=1, workers=2), tmp_path / "run")
    said = capfd.readouterr().out
    assert said.count("workers    2 data loading processes, but 1 cores: if training is slow, set workers=0") == 1
