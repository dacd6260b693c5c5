"""Trainings that start from a trained directory, and that replace a run."""

import pytest
import torch
from mmengine import Config
from pictures import COLOURS, tiny_config, write_folders
from torch.testing import assert_close

from attnzoo.tools.detection.detectors import create_detector
from attnzoo.tools.detection.files import save_detector
from attnzoo.tools.detection.options import HEADS, DetectorOptions
from attnzoo.tools.train import train
from attnzoo.tools.training.loop import TrainingError
from attnzoo.tools.training.network import create_network
from attnzoo.tools.training.recipe import Recipe
from attnzoo.tools.training.starting import read_start, start_detector

CLASSES = list(COLOURS)


@pytest.fixture
def pictures(tmp_path):
    return {"name": "imagefolder", "root": str(write_folders(tmp_path / "pictures"))}


def recipe(pictures, **model):
    return Recipe.from_config(tiny_config(pictures, model={"name": "test_resnet", **model}))


@pytest.fixture
def trained(tmp_path, pictures):
    train(tiny_config(pictures, epochs=1), tmp_path / "trained")
    state = torch.load(tmp_path / "trained" / "last.pth", weights_only=True)["state_dict"]
    return str(tmp_path / "trained"), state


def test_a_classifier_keeps_what_it_has_learned_of_its_classes(pictures, trained):
    folder, state = trained
    network, said = create_network(recipe(pictures, weights=folder), CLASSES)
    assert said == f"from {folder} with its classifier"
    assert_close(dict(network.state_dict()), dict(state), rtol=0, atol=0)

    network, said = create_network(recipe(pictures, weights=f"{folder}/model"), ["red", "pink", "blue", "white"])
    assert said == f"from {folder}/model, 2 of 4 classes of its classifier kept, the others are new"
    found = network.state_dict()
    for key, value in state.items():
        if not key.startswith("fc."):
            assert_close(found[key], value, rtol=0, atol=0)
            continue
        for row, name in ((0, "red"), (2, "blue")):
            assert torch.equal(found[key][row], value[CLASSES.index(name)])
        assert not any(torch.equal(found[key][1], one) for one in value)


def test_a_run_that_starts_from_another_is_no_worse_at_once(pictures, trained, tmp_path, capfd):
    folder, _ = trained
    model = {"name": "test_resnet", "weights": folder}
    directory = train(tiny_config(pictures, epochs=1, model=model, optimizer={"opt": "sgd", "lr": 0.0}), tmp_path / "b")
    assert f"test_resnet, input 3 x 32 x 32, from {folder} with its classifier" in capfd.readouterr().out
    assert "weights" not in (directory / "config.json").read_text()


MISTAKES = {
    "no directory": ({"weights": "nowhere"}, "model.weights: nowhere has no trained model"),
    "another model": ({"name": "test_vit"}, "has the weights of test_resnet, set model.name=test_resnet, got test_vit"),
    "other layers": ({"block_args": {"attn_layer": "eca"}}, "cannot be loaded into test_resnet"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_ends_in_one_line(pictures, trained, mistake):
    changes, message = MISTAKES[mistake]
    with pytest.raises((ValueError, FileNotFoundError), match=message) as told:
        create_network(recipe(pictures, **{"weights": trained[0], **changes}), CLASSES)
    assert "\n" not in str(told.value)


def make(head, classes, seed):
    torch.manual_seed(seed)
    options = DetectorOptions.from_dict({"head": head, "size": 64, "width": 64})
    return create_detector("shvit_pico", {}, options, len(classes), [0.5] * 3, [0.25] * 3), options


@pytest.mark.parametrize("head", HEADS)
def test_a_detector_keeps_what_it_has_learned_of_its_classes(tmp_path, head):
    before, classes = ["ant", "bee", "cat"], ["cat", "dog", "ant"]
    known, options = make(head, before, 0)
    save_detector(known, tmp_path / "model", "shvit_pico", {}, options, before, [0.5] * 3, [0.25] * 3)
    start = read_start({"name": "shvit_pico", "weights": str(tmp_path)})
    assert start is not None
    again, _ = make(head, before, 1)
    assert start_detector(start, again, before) == f"from {tmp_path} with its head"
    assert_close(dict(again.state_dict()), dict(known.state_dict()), rtol=0, atol=0)

    fresh, _ = make(head, classes, 1)
    random = {key: value.clone() for key, value in fresh.state_dict().items()}
    assert (
        start_detector(start, fresh, classes) == f"from {tmp_path}, 2 of 3 classes of its head kept, the others are new"
    )
    # as many classes as before, so that a wrong order would have the right shapes
    first = 0 if head in ("fcos", "retinanet") else 1
    order = [*range(first), *(first + before.index(name) if name in before else -1 for name in classes)]
    for key, value in fresh.state_dict().items():
        old = known.state_dict()[key]
        layer = key.split(".")[-2]
        if layer not in ("cls_logits", "cls_score", "bbox_pred", "mask_fcn_logits") or "rpn" in key:
            assert torch.equal(value, old), key
            continue
        rows = [x.reshape(-1, len(order), *((4,) if layer == "bbox_pred" else ()), *x.shape[1:]) for x in (value, old)]
        kept = random[key].reshape(rows[0].shape)
        for row, place in enumerate(order):
            assert torch.equal(rows[0][:, row], rows[1][:, place] if place >= 0 else kept[:, row]), (key, row)


def test_a_detector_starts_from_the_backbone_of_a_classifier(tmp_path, pictures, capfd):
    model = {"name": "shvit_pico"}
    train(tiny_config(pictures, epochs=1, model=model), tmp_path / "a")
    data = {"name": "digits_on_canvas", "size": 64, "largest": 32, "train_images": 4, "val_images": 2}
    detection = {"task": "detection", "data": data, "detector": {"head": "fcos", "size": 64, "width": 64}}
    weights = str(tmp_path / "a")
    config = {**tiny_config(data).to_dict(), **detection, "batch_size": 2, "epochs": 1, "freeze": "backbone"}
    train(Config({**config, "model": {**model, "weights": weights}}), tmp_path / "b")
    assert f"backbone from {weights}" in capfd.readouterr().out
    states = [torch.load(tmp_path / run / "last.pth", weights_only=True)["state_dict"] for run in ("a", "b")]
    shared = [key for key in states[1] if key.startswith("model.backbone.body.model.")]
    assert shared
    for key in shared:
        assert torch.equal(states[1][key], states[0][key.removeprefix("model.backbone.body.model.")])


def test_a_run_is_replaced_and_nothing_else(tmp_path, pictures):
    run = tmp_path / "run"
    train(tiny_config(pictures, epochs=2), run)
    (run / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="--overwrite to replace it"):
        train(tiny_config(pictures, epochs=1), run)
    with pytest.raises(ValueError, match="pass one of them"):
        train(tiny_config(pictures, epochs=1), run, resume=True, overwrite=True)
    # a mistake leaves the run as it was
    with pytest.raises(FileNotFoundError):
        train(tiny_config({**pictures, "root": "nowhere"}), run, overwrite=True)
    assert torch.load(run / "last.pth", weights_only=True)["epoch"] == 2
    # the run may start from the one that it replaces
    train(tiny_config(pictures, epochs=1, model={"name": "test_resnet", "weights": str(run)}), run, overwrite=True)
    assert torch.load(run / "last.pth", weights_only=True)["epoch"] == 1
    assert len((run / "train.log").read_text().split("model saved")) == 2
    assert (run / "notes.txt").read_text() == "mine"
    assert not (run / ".replaced").exists()


def contents(run):
    return {path.relative_to(run): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def test_a_run_stays_until_another_has_stored_a_checkpoint(tmp_path, pictures):
    run = tmp_path / "run"
    train(tiny_config(pictures, epochs=1), run)
    before = contents(run)
    picture = next((tmp_path / "pictures" / "train").rglob("*.png"))
    picture.write_bytes(b"")
    with pytest.raises(TrainingError, match="cannot be read as an image"):
        train(tiny_config(pictures, epochs=1), run, overwrite=True)
    assert contents(run) == before


def test_a_run_comes_back_when_a_process_was_killed(tmp_path, pictures):
    run = tmp_path / "run"
    train(tiny_config(pictures, epochs=1), run)
    before = contents(run)
    # killed while the run is set aside, after one and after all of its files
    for moved in (["last.pth"], [path.name for path in run.iterdir()]):
        (run / ".replaced").mkdir()
        for name in moved:
            (run / name).rename(run / ".replaced" / name)
        if len(moved) > 1:
            (run / "train.log").write_text("another")
        with pytest.raises(ValueError, match="already contains a run"):
            train(tiny_config(pictures, epochs=1), run)
        assert contents(run) == before
    # killed after another one has stored a checkpoint
    (run / ".replaced").mkdir()
    (run / ".replaced" / "last.pth").write_text("earlier")
    with pytest.raises(ValueError, match="already contains a run"):
        train(tiny_config(pictures, epochs=1), run)
    assert contents(run) == before
