"""Resumed runs: with more epochs, and over data that was moved or changed."""

import itertools
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from pictures import COLOURS, picture, tiny_config, write_folders
from PIL import Image

from attnzoo.tools.data import ClassifiedImages, open_classification
from attnzoo.tools.segmentation.data import open_segmentation
from attnzoo.tools.train import train
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.loop import TrainingError
from attnzoo.tools.training.recipe import Recipe
from attnzoo.tools.training.resuming import describe

SCHEDULE = {"sched": "cosine", "warmup_epochs": 0}


def config(root, **changes):
    values = {"epochs": 1, "batch_size": 12, "schedule": SCHEDULE, **changes}
    return tiny_config({"name": "imagefolder", "root": str(root), **values.pop("data", {})}, **values)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of one epoch, and its data."""
    place = tmp_path_factory.mktemp("finished")
    train(config(write_folders(place / "data")), place / "run")
    return place


@pytest.fixture
def place(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "moved")


def test_a_run_has_its_config_and_its_lines_as_files(finished):
    run = finished / "run"
    assert sorted(path.name for path in run.iterdir()) == [
        "best.pth", "config.py", "curves.png", "history.json", "last.pth", "model", "train.log",
    ]  # fmt: skip
    assert "epoch 1/1  loss" in (run / "train.log").read_text()
    stored = Recipe.from_config(load_config(run / "config.py"))
    assert stored == Recipe.from_config(config(finished / "data"))


def record(run):
    return torch.load(run / "last.pth", weights_only=True)["record"]


def test_a_finished_run_continues_with_more_epochs(finished, place, capsys):
    train(config(finished / "data", epochs=3), place / "run", resume=True)
    said = capsys.readouterr().out
    assert "3, previously 1: the schedule has the new length" in said
    assert "data changed" not in said
    assert "resumed    after step 2 of 6, in epoch 2" in said
    assert [epoch["epoch"] for epoch in record(place / "run")["epochs"]] == [1, 2, 3]
    # the rates of the new epochs are those of a run of three epochs
    train(config(finished / "data", epochs=3), place / "whole")
    rates = [[rate for _, _, rate in record(place / name)["steps"]] for name in ("run", "whole")]
    assert len(rates[0]) == 6
    assert rates[0][2:] == rates[1][2:]
    with pytest.raises(ValueError, match=r"epochs must be at least 3, which the run in .*run has done, got 2"):
        train(config(finished / "data", epochs=2), place / "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"seed": 1}, "another config: seed is 0 there and 1 here. Resume with the config"),
        (
            {"optimizer": {"opt": "adamw", "lr": 0.1, "eps": 1}},
            "lr is 0.002 there and 0.1 here, optimizer.eps is not set",
        ),
        ({"data": {"crop_pct": 0.5}}, "data.crop_pct is 1.0 there and 0.5 here"),
    ],
    ids=["seed", "optimizer", "data"],
)
def test_another_key_is_named(finished, place, changes, says):
    with pytest.raises(ValueError, match=says):
        train(config(finished / "data", **changes), place / "run", resume=True)


def test_moved_data_is_accepted_if_its_files_are_the_same(place, capsys):
    train(config(place / "data"), place / "run", resume=True)
    assert "data changed" not in capsys.readouterr().out
    (place / "data" / "train" / "red" / "0.png").unlink()
    with pytest.raises(ValueError, match=r"data\.root is .*, previously .*, and .* 23 training images, previously 24"):
        train(config(place / "data"), place / "run", resume=True)


def test_changed_data_is_told_and_the_run_continues(finished, place, tmp_path, capsys):
    train(config(place / "data"), tmp_path / "run")
    for index in range(12):
        picture("red", index).save(place / "data" / "train" / "red" / f"new{index}.png")
    picture("blue", 1, (10, 10)).save(place / "data" / "val" / "red" / "0.png")
    train(config(place / "data", epochs=2), tmp_path / "run", resume=True)
    said = capsys.readouterr().out
    assert "36 training images, previously 24; other contents of validation files" in said
    # two steps of the first epoch, three of the second
    assert [step for step, _, _ in record(tmp_path / "run")["steps"]] == [1, 2, 4, 5, 6]


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"red": 0, "green": 1, "blue": 2}, "their order was blue, green, red and is now red, green, blue"),
        ({"blue": 0, "red": 1}, "green only in the run"),
    ],
    ids=["swapped", "left out"],
)
def test_other_classes_are_refused_by_name(finished, place, labels, says):
    with pytest.raises(ValueError, match=f"classes of the data are not those of the run: {says}"):
        train(config(finished / "data", data={"class_map": labels}), place / "run", resume=True)


def test_a_renamed_class_is_refused_by_name(finished, place):
    for split in ("train", "val"):
        (place / "data" / split / "red").rename(place / "data" / split / "rouge")
    with pytest.raises(ValueError, match="red only in the run; rouge only in the data"):
        train(config(place / "data"), place / "run", resume=True)


def changes(root, before):
    now = describe(
        *(open_classification({"name": "imagefolder", "root": str(root)}, split) for split in ("train", "val"))
    )
    return [
        f"{split} {key}" for split in ("train", "val") for key in now[split] if now[split][key] != before[split][key]
    ]


def test_a_description_sees_names_and_contents_but_not_the_place(tmp_path):
    root = write_folders(tmp_path / "data")
    before = describe(
        *(open_classification({"name": "imagefolder", "root": str(root)}, split) for split in ("train", "val"))
    )
    assert before["classes"] == list(COLOURS)
    assert changes(shutil.copytree(root, tmp_path / "copy"), before) == []
    (root / "train" / "red" / "0.png").rename(root / "train" / "red" / "00.png")
    assert changes(root, before) == ["train names"]
    (root / "val" / "red" / "0.png").write_bytes(b"")
    assert changes(root, before) == ["train names", "val contents"]


def described(data):
    return describe(*(open_segmentation({"input_size": (3, 32, 32), **data}, split) for split in ("train", "val")))


def test_a_description_of_masks_in_folders_sees_their_contents_but_not_the_place(tmp_path):
    for split, kind in itertools.product(("train", "val"), ("images", "masks")):
        (tmp_path / "data" / kind / split).mkdir(parents=True)
        Image.fromarray(np.array([[0, 1]], dtype=np.uint8)).save(tmp_path / "data" / kind / split / "0.png")
    folders = {"name": "maskfolder", "class_map": {"a": 0, "b": 1}}
    before = described({**folders, "root": str(tmp_path / "data")})
    copy = shutil.copytree(tmp_path / "data", tmp_path / "copy")
    moved = {**folders, "train_images": str(copy / "images" / "train"), "train_masks": str(copy / "masks" / "train")}
    assert described({**moved, "root": str(tmp_path / "data")}) == before
    # of the same size
    Image.fromarray(np.array([[1, 0]], dtype=np.uint8)).save(copy / "masks" / "train" / "0.png")
    now = described({**moved, "root": str(tmp_path / "data")})
    assert now["val"] == before["val"]
    assert [key for key, value in now["train"].items() if value != before["train"][key]] == ["contents"]


def test_a_description_of_masks_of_polygons_sees_the_annotations_but_not_the_place(tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        picture("red").save(tmp_path / "data" / "images" / split / "0.png")
        (tmp_path / "data" / "labels" / split / "0.txt").write_text("0 0 0 0.5 0 0.5 0.5\n")
    folders = {"name": "yolo", "names": ["thing"]}
    before = described({**folders, "root": str(tmp_path / "data")})
    copy = shutil.copytree(tmp_path / "data", tmp_path / "copy")
    assert described({**folders, "root": str(copy)}) == before
    (copy / "labels" / "val" / "0.txt").write_text("0 0 0 0.6 0 0.5 0.5\n")
    now = described({**folders, "root": str(copy)})
    assert now["train"] == before["train"]
    assert [key for key, value in now["val"].items() if value != before["val"][key]] == ["contents"]


def test_a_description_of_masks_in_a_table_sees_its_size_but_not_the_place(tmp_path):
    datasets = pytest.importorskip("datasets")

    def write(name, size):
        (tmp_path / name).mkdir()
        columns = {"image": [picture("red", 0, size)], "annotation": [Image.new("L", size[::-1])]}
        features = datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()})
        for split in ("train", "validation"):
            table = datasets.Dataset.from_dict(columns, features=features)
            table.to_parquet(str(tmp_path / name / f"{split}.parquet"))
        return {"name": "hfds", "dataset": str(tmp_path / name), "class_map": {"a": 0, "b": 1}, "root": str(tmp_path)}

    before = described(write("data", (20, 16)))
    assert described(write("copy", (20, 16))) == before
    assert described(write("other", (30, 16)))["train"]["contents"] != before["train"]["contents"]


def test_a_picture_of_the_validation_that_cannot_be_read_is_told_before_the_first_epoch(place):
    broken = place / "data" / "val" / "red" / "1.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(TrainingError, match=r"red/1\.png .* unreadable=skip .* No step has been done"):
        train(config(place / "data"), place / "new")
    assert not (place / "new" / "last.pth").exists()


def test_an_epoch_is_stored_before_it_is_validated(finished, place, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("attnzoo.tools.metrics.ClassificationJudge.__call__", fail)
        with pytest.raises(ZeroDivisionError):
            train(config(finished / "data"), place / "new")
    stored = torch.load(place / "new" / "last.pth", weights_only=True)
    assert (stored["epoch"], stored["step"]) == (0, 2)
    train(config(finished / "data"), place / "new", resume=True)
    assert record(place / "new") == record(finished / "run")


@pytest.mark.parametrize(
    ("end", "says"),
    [
        (
            lambda: os.kill(os.getpid(), signal.SIGKILL),
            "a data loading process was killed, probably because memory or shared memory",
        ),
        (lambda: os.kill(os.getpid(), signal.SIGBUS), r"shared memory .*\(/dev/shm\).*: set fewer workers"),
        (lambda: open_memory(), r"no shared memory left \(/dev/shm\): set fewer workers"),
    ],
    ids=["killed", "bus error", "full"],
)
def test_a_data_loading_process_that_ends_is_explained_in_a_line(finished, place, monkeypatch, end, says):
    load = ClassifiedImages.load

    def end_in_a_worker(self, index):
        if torch.utils.data.get_worker_info() is not None:
            end()
        return load(self, index)

    monkeypatch.setattr(ClassifiedImages, "load", end_in_a_worker)
    with pytest.raises(TrainingError, match=rf"{says}.* No step has been done$") as told:
        train(config(finished / "data", workers=1), place / "new")
    assert "\n" not in str(told.value)


def open_memory():
    raise RuntimeError("unable to write to file </torch_12_34_0>: No space left on device (28)")
