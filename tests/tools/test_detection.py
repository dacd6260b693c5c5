import json
from pathlib import Path

import pytest
import timm
import torch
from mmengine import Config
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from attnzoo.tools.data import Draw
from attnzoo.tools.detection import prediction
from attnzoo.tools.detection.data import open_detection
from attnzoo.tools.detection.detectors import create_detector
from attnzoo.tools.detection.files import open_detector
from attnzoo.tools.detection.options import DetectorOptions
from attnzoo.tools.train import train
from attnzoo.tools.training.checkpoints import Checkpoints
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.loop import TrainingError
from attnzoo.tools.training.recipe import Recipe
from attnzoo_command.configs import packaged_configs

SMALL = {
    "task": "detection",
    "epochs": 1,
    "batch_size": 4,
    "model": {"name": "shvit_pico"},
    "detector": {"head": "fcos", "min_size": 64, "max_size": 64, "width": 64, "finer_levels": 1, "coarser_levels": 0},
    "data": {"name": "digits_on_canvas", "size": 64, "largest": 32, "train_images": 8, "val_images": 5},
    "optimizer": {"opt": "adamw", "lr": 1e-3},
    "save_interval": 1,
}
CONFIGS = [name for name in packaged_configs() if name.startswith("detection/")]


def small(**changes):
    """The small config; a dict of changes changes that dict's keys."""
    merged = {**SMALL}
    for key, value in changes.items():
        is_part = isinstance(value, dict) and isinstance(SMALL.get(key), dict)
        merged[key] = {**SMALL[key], **value} if is_part else value
    return Config(merged)


def test_a_run_is_trained_stored_and_opened_as_it_was_judged(runs, capfd):
    directory = train(small(epochs=2, augment=[{"type": "RandomHorizontalFlip"}]), runs)
    output = capfd.readouterr()
    assert "fcos on shvit_pico, strides 8, 16, 32, 64, randomly initialized" in output.out
    assert "digits_on_canvas, 8 training and 5 validation images, 10 classes" in output.out
    assert "AP50" in output.out
    # printed by pycocotools
    assert "Accumulating" not in output.out
    assert output.err == ""
    opened, config = open_detector(directory)
    assert config["label_names"] == [str(i) for i in range(10)]
    stored = torch.load(runs / "best.pth", weights_only=True)
    assert_close(dict(opened.state_dict()), stored["state_dict"], rtol=0, atol=0)
    assert set(stored["record"]["epochs"][-1]) >= {"epoch", "loss", "AP", "AP50", "AP75", "AR"}


class StopError(Exception):
    pass


@pytest.mark.full
@pytest.mark.parametrize("head", ["retinanet", "faster_rcnn"])
def test_a_run_that_died_continues_to_the_same_weights(runs, monkeypatch, head):
    """Proposals and image sizes are random: both random states continue after a resume."""
    config = small(epochs=2, detector={"head": head, "min_size": [48, 64]}, augment=[{"type": "RandomHorizontalFlip"}])
    whole = load_file(train(config, runs / "whole") / "model.safetensors")
    save = Checkpoints._save
    with monkeypatch.context() as patch:

        def save_and_die(self, runner):
            save(self, runner)
            if runner.train_loop.step == 3:
                raise StopError

        patch.setattr(Checkpoints, "_save", save_and_die)
        with pytest.raises(StopError):
            train(config, runs / "died")
    train(config, runs / "died", resume=True)
    last = [torch.load(runs / name / "last.pth", weights_only=True)["state_dict"] for name in ("whole", "died")]
    assert_close(last[0], last[1], rtol=0, atol=0)
    assert set(whole) == set(last[0])


OPTIONS = {
    "mixed precision": {"precision": "bfloat16"},
    "channels last": {"channels_last": True},
    "an average of weights": {"ema": {"decay": 0.9}},
    "accumulation": {"accumulate": 2},
    "recomputed activations": {"grad_checkpointing": True},
    "one grey channel": {"model": {"in_chans": 1}},
    "worker processes": {"workers": 2},
}


@pytest.mark.full
@pytest.mark.parametrize("case", OPTIONS)
def test_the_recipes_other_keys_work_for_detectors(runs, case):
    # regions are read from features of whatever precision
    head = "mask_rcnn" if case == "mixed precision" else "fcos"
    detector, _ = open_detector(train(small(**OPTIONS[case], detector={"head": head}), runs))
    channels = 1 if case == "one grey channel" else 3
    assert len(detector([torch.rand(channels, 64, 64)])) == 1


def test_a_frozen_backbone_stays_as_it_was(runs):
    config = small(freeze="backbone")
    weights = load_file(train(config, runs) / "model.safetensors")
    torch.manual_seed(0)
    options = DetectorOptions.from_dict(SMALL["detector"])
    fresh = create_detector("shvit_pico", {}, options, 10, [0.5] * 3, [0.5] * 3).state_dict()
    for name, tensor in weights.items():
        if name.startswith("model.backbone.body."):
            assert torch.equal(tensor, fresh[name]), name
    assert not torch.equal(
        weights["model.backbone.fpn.inner_blocks.0.0.weight"], fresh["model.backbone.fpn.inner_blocks.0.0.weight"]
    )


def test_a_pretrained_backbone_is_taken_over_and_not_looked_for_again(runs, tmp_path):
    classifier = timm.create_model("shvit_pico", num_classes=7)
    save_file(classifier.state_dict(), tmp_path / "published.safetensors")
    overlay = {"file": str(tmp_path / "published.safetensors"), "num_classes": 7}
    model = {"pretrained": True, "pretrained_cfg_overlay": overlay}
    directory = train(small(model=model, freeze="backbone"), runs)
    detector, config = open_detector(directory)
    assert config["model_args"] == {}
    # its statistics come from many more images than a batch has
    assert config["detector"]["frozen_batchnorm"] is True
    own, published = detector.backbone.body.model.state_dict(), classifier.state_dict()
    assert_close(own, {name: published[name] for name in own}, rtol=0, atol=0)


def test_channels_last_changes_no_weight(runs):
    one, other = (train(small(channels_last=flag), runs / str(flag)) for flag in (False, True))
    assert_close(load_file(one / "model.safetensors"), load_file(other / "model.safetensors"), rtol=1e-3, atol=2e-3)


BAD = {
    "no head": ({"detector": {"head": None}}, "detector.head must be one of fcos"),
    "an unknown key": ({"detector": {"heads": 1}}, "unknown config key detector.heads: did you mean detector.head=1"),
    "no such data": ({"data": {"name": "vocal"}}, "data.name must be one of coco"),
    "no folder": ({"data": {"name": "coco", "root": "/nowhere"}}, "invalid keys for (digits_on_canvas|coco)"),
    "classification's augmentation": ({"augment": {"hflip": 0.5}}, "augment must be a list of torchvision transforms"),
    "mixup": ({"mixup": {"mixup_alpha": 0.2}}, "mixup is for classification"),
    "four channels": ({"model": {"in_chans": 4}}, r"model.in_chans must be 1 \(grey\) or 3"),
    "an argument of no model": ({"model": {"nonsense": 1}}, "shvit_pico cannot return features with"),
    "a size that the backbone does not take": (
        {"model": {"name": "biformer_pico", "auto_pad": False}, "detector": {"min_size": 96, "max_size": 96}},
        r"biformer_pico does not take an image of 64 x 64 pixels .*auto_pad",
    ),
    "a mean of two numbers": ({"data": {"mean": [0.5, 0.5]}}, "data.mean must be 3 numbers"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_end_in_one_line_before_training(runs, case):
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        train(small(**changes), runs)
    assert not (runs / "last.pth").exists()


def coco(folder: Path, annotations) -> dict:
    """A data set in the COCO format with the same canvases in both splits."""
    canvases = open_detection(SMALL["data"], "train", [])
    (folder / "annotations").mkdir(parents=True)
    images = [{"id": i, "file_name": f"{i}.png", "width": 64, "height": 64} for i in range(4)]
    content = {"images": images, "categories": [{"id": 5, "name": "digit"}], "annotations": annotations}
    for split in ("train2017", "val2017"):
        (folder / split).mkdir()
        for i in range(4):
            canvases.source.picture(i, 3).save(folder / split / f"{i}.png")
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return {"name": "coco", "root": str(folder)}


def annotation(image_id, box, **more):
    x, y, w, h = box
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    return {"image_id": image_id, "category_id": 5, "bbox": box, "segmentation": outline, "area": w * h, **more}


@pytest.mark.parametrize("head", ["retinanet", "mask_rcnn"])
def test_one_class_with_crowds_and_empty_and_degenerate_boxes_is_trained(runs, tmp_path, capfd, head):
    boxes = [
        annotation(0, [2, 2, 20, 20]),
        annotation(0, [30, 30, 0, 10]),
        annotation(1, [5, 5, 60, 20]),
        annotation(2, [0, 0, 64, 64], iscrowd=1),
    ]
    config = {**small(detector={"head": head}).to_dict(), "data": coco(tmp_path / "coco", boxes)}
    _, stored = open_detector(train(Config(config), runs))
    assert stored["label_names"] == ["digit"]
    assert "1 boxes without width or height left out, 1 boxes clipped to the image" in capfd.readouterr().out


def test_pictures_that_cannot_be_read_stop_the_run_or_are_listed(runs, tmp_path, capfd):
    data = coco(tmp_path / "coco", [annotation(i, [2, 2, 20, 20]) for i in range(4)])
    (tmp_path / "coco" / "val2017" / "1.png").write_bytes(b"no picture")
    config = {**small().to_dict(), "data": data}
    with pytest.raises(TrainingError, match=r"1.png cannot be read"):
        train(Config(config), runs / "stopped")
    train(Config({**config, "unreadable": "skip"}), runs / "skipped")
    assert "skipped 1 file that could not be read:" in capfd.readouterr().out


@pytest.mark.parametrize("name", CONFIGS)
def test_packaged_configs_describe_detectors(name):
    recipe = Recipe.from_config(load_config(name, ["model.pretrained=False"]))
    options = DetectorOptions.from_dict(recipe.detector)
    arguments = {key: value for key, value in recipe.model.items() if key not in ("name", "pretrained")}
    # shapes only: creating the large ones would take long
    with torch.device("meta"):
        detector = create_detector(recipe.model["name"], arguments, options, 80, [0.5] * 3, [0.5] * 3)
    published = {"mask_rcnn": [4, 8, 16, 32, 64], "retinanet": [8, 16, 32, 64, 128], "fcos": [4, 8, 16, 32]}
    is_published = name.startswith("detection/coco_")
    assert detector.backbone.strides[:4] == published[options.head][:4]
    assert not is_published or detector.backbone.strides == published[options.head]
    doc = Path(packaged_configs()[name]).read_text().split('"""')[1]
    for title in ("Command:", "Hardware:", *(("Source:", "Published:") if is_published else ("Expect:",))):
        assert title in doc


def test_the_augmentation_of_the_published_recipes_takes_pictures_of_any_form():
    recipe = Recipe.from_config(load_config("detection/coco_mask_rcnn_nat_tiny"))
    samples = open_detection({**SMALL["data"], "size": 64}, "train", recipe.augment, with_masks=True)
    sizes = {samples[Draw(0, seed)]["images"].shape[-2:] for seed in range(6)}
    assert sizes == {(64, 64), (384, 384)}


@pytest.mark.slow
def test_the_digits_are_found(runs):
    train(load_config("detection/digits"), runs)
    best = torch.load(runs / "best.pth", weights_only=True)["record"]["best"]
    assert best["AP50"] >= 0.8


def test_boxes_without_an_area_are_not_objects(monkeypatch):
    class Network(torch.nn.Module):
        def forward(self, images):
            boxes = torch.tensor([[1.0, 2, 1, 9], [1, 2, 5, 9], [3, 4, 8, 4], [0, 0, 2, 2]])
            found = {"boxes": boxes, "scores": torch.tensor([0.9, 0.8, 0.7, 0.1]), "labels": torch.tensor([0, 1, 0, 1])}
            return [found for _ in images]

    config = {"label_names": ["ant", "bee"], "preprocessing": {"mean": [0, 0, 0]}}
    monkeypatch.setattr(prediction, "open_detector", lambda directory: (Network(), config))
    predictor = prediction.open_for_prediction("run", torch.device("cpu"), least_score=0.3)
    (found,) = predictor.predict([torch.zeros(3, 8, 8)])
    assert (found["labels"], found["boxes"]) == (["bee"], [[1, 2, 5, 9]])
