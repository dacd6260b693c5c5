"""Scalars of a training in TensorBoard, W&B and MLflow; the latter two are stand-ins that note their calls."""

import importlib.machinery
import sys
import types

import pytest
import torch

from attnzoo.tools.train import train
from attnzoo.tools.training.speed import Speed


@pytest.fixture
def stand_in(monkeypatch):
    def make(name, **functions):
        module = types.ModuleType(name)
        # found by importlib.util.find_spec
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        vars(module).update(functions)
        monkeypatch.setitem(sys.modules, name, module)

    return make


def test_wandb_has_the_scalars_with_their_steps(few_digits, small_config, runs, stand_in):
    noted, started = [], {}
    stand_in(
        "wandb",
        init=lambda **options: started.update(options),
        define_metric=lambda **options: started.update(axis=options),
        log=lambda scalars, commit: noted.append(scalars),
        join=lambda: noted.append("end"),
    )
    train(small_config("epochs=1", "tracker.name=wandb", "tracker.init_kwargs.project=numbers"), runs)
    assert (started["project"], started["name"]) == ("numbers", runs.name)
    assert started["config"]["epochs"] == 1
    assert started["axis"] == {"name": "*", "step_metric": "train/step"}
    assert {"train/loss", "train/lr", "train/images_per_second", "train/step"} <= noted[0].keys()
    assert {"val/accuracy", "val/loss"} <= noted[-2].keys()
    assert noted[-1] == "end"
    assert [entry["train/step"] for entry in noted[:-1]] == sorted(entry["train/step"] for entry in noted[:-1])


def test_mlflow_has_the_scalars_and_the_config(few_digits, small_config, runs, stand_in):
    noted, named = [], {}
    nothing = dict.fromkeys(("create_experiment", "log_text", "log_artifact", "end_run"), lambda *_, **__: None)
    stand_in(
        "mlflow",
        get_experiment_by_name=lambda name: None,
        set_tracking_uri=lambda uri: named.update(uri=uri),
        set_experiment=lambda name: named.update(experiment=name),
        set_tag=lambda key, value: named.update({key: value}),
        log_params=named.update,
        log_metrics=lambda scalars, step: noted.append((step, scalars)),
        **nothing,
    )
    train(small_config("epochs=1", "tracker.name=mlflow"), runs)
    assert (named["experiment"], named["mlflow.runName"], named["epochs"]) == ("attnzoo", runs.name, 1)
    assert named["uri"].startswith("file:")
    assert "train/loss" in noted[0][1]
    assert "val/accuracy" in noted[-1][1]


def test_an_absent_tracker_is_one_line(few_digits, small_config, runs, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"tracker.name=wandb needs the package wandb: pip install wandb"):
        train(small_config("epochs=1", "tracker.name=wandb"), runs)
    with pytest.raises(ValueError, match=r"tracker.name must be one of wandb, mlflow, got 'other'"):
        train(small_config("epochs=1", "tracker.name=other"), runs)


def test_speed_is_that_of_the_steps():
    times = iter([0.0, 10.0, 12.0, 14.0])
    speed = Speed(torch.device("cpu"), clock=lambda: next(times))
    speed.start()
    for _ in range(2):
        speed.add(8)
    assert speed.images_per_second == 4
    assert str(speed).startswith("4 images/s")
    assert "images/s" not in str(Speed(torch.device("cpu")))
    assert speed.memory is None or speed.memory > 1e7
