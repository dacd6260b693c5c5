"""Training, evaluation and prediction of segmenters."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from mmengine import Config
from PIL import ExifTags, Image
from torch import nn
from torch.testing import assert_close

from attnzoo.tools.cli import main
from attnzoo.tools.data.samples import Draw
from attnzoo.tools.drawing import draw_probabilities
from attnzoo.tools.evaluate import Reading, evaluate
from attnzoo.tools.files import write_sums
from attnzoo.tools.images import UnreadableImageError
from attnzoo.tools.predict import predict
from attnzoo.tools.segmentation import drawing
from attnzoo.tools.segmentation.data import Preparation, open_segmentation
from attnzoo.tools.segmentation.drawing import overlaid, palette
from attnzoo.tools.segmentation.files import open_segmenter
from attnzoo.tools.segmentation.network import DECODERS, create_segmenter
from attnzoo.tools.segmentation.sources import IGNORED, read_mask
from attnzoo.tools.segmentation.training import create_loss, segmentation
from attnzoo.tools.segmentation.windows import segment
from attnzoo.tools.stored import save_network
from attnzoo.tools.train import train
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.learners import class_weights
from attnzoo.tools.training.loop import TrainingError
from attnzoo.tools.training.optimization import create_optimization, create_schedule
from attnzoo.tools.training.processes import Processes
from attnzoo.tools.training.recipe import Recipe
from attnzoo.tools.training.setup import OF_SPLITS, check_classes
from attnzoo_command.configs import packaged_configs

pytest.importorskip("segmentation_models_pytorch", reason="needs attnzoo[segmentation]")

SMALL: dict[str, Any] = {
    "task": "segmentation",
    "epochs": 2,
    "batch_size": 4,
    "model": {"name": "nat_pico"},
    "decoder": {"name": "fpn", "pyramid_channels": 32, "segmentation_channels": 32},
    "data": {
        "name": "digits_on_canvas", "size": 64, "largest": 32, "train_images": 8, "val_images": 3,
        "input_size": (3, 64, 64),
    },
    "optimizer": {"opt": "adamw", "lr": 1e-3},
}  # fmt: skip
PREPROCESSING = {"input_size": (3, 64, 64), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": "bilinear"}


def small(**changes: Any) -> Config:
    """The small config; a dict of changes changes that dict's keys."""
    merged = {key: {**SMALL[key], **x} if isinstance(SMALL.get(key), dict) else x for key, x in changes.items()}
    return Config({**SMALL, **merged})


def write_stripes(root: Path, count: int = 3, size: tuple[int, int] = (40, 30)) -> Path:
    """Images whose left part is dark, class 1, and whose right part is bright, class 2; a row is of no class."""
    for split in ("training", "val"):
        for kind in ("images", "annotations"):
            (root / kind / split).mkdir(parents=True)
        for i in range(count):
            mask = np.full(size[::-1], 2, dtype=np.uint8)
            mask[:, : 10 + i] = 1
            mask[0] = 0
            Image.fromarray(mask * 100).convert("RGB").save(root / "images" / split / f"{i}.jpg")
            stored = Image.fromarray(mask)
            stored.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
            stored.save(root / "annotations" / split / f"{i}.png")
    return root


def test_a_run_is_trained_stored_evaluated_and_drawn(runs: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # larger than the input: cut in training, read in windows in evaluation
    data = {"resize": "none", "size": 80}
    directory = train(small(data=data, augment=[{"type": "RandomHorizontalFlip"}], freeze="backbone"), runs)
    output = capfd.readouterr()
    assert "fpn on nat_pico, input 3 x 64 x 64, randomly initialized" in output.out
    assert "digits_on_canvas, 8 training and 3 validation images, 11 classes" in output.out
    assert output.err == ""
    opened, config = open_segmenter(directory)
    assert config["label_names"] == ["background", *map(str, range(10))]
    stored = torch.load(runs / "best.pth", weights_only=True)
    assert_close(dict(opened.state_dict()), stored["state_dict"], rtol=0, atol=0)
    result = evaluate(str(runs), {**SMALL["data"], **data}, worst=runs / "worst")
    known = max(stored["record"]["epochs"], key=lambda epoch: epoch["mIoU"])
    assert_close({key: result.metrics[key] for key in result.shares}, {key: known[key] for key in result.shares})
    assert set(result.per_class["background"]) == {"IoU", "accuracy"}
    assert len(result.per_class) == 11
    assert len(list((runs / "worst").iterdir())) == 3


def test_masks_in_folders_are_learned_and_predicted_in_the_pixels_of_the_file(tmp_path: Path, runs: Path) -> None:
    root = write_stripes(tmp_path / "stripes")
    folders = {"name": "maskfolder", "root": str(root), "first_label": 1, "input_size": (3, 64, 64)}
    config = Config({**SMALL, "data": folders, "epochs": 16, "val_interval": 16, "batch_size": 3})
    config.merge_from_dict({"loss": {"weight": "balanced"}, "optimizer": {"lr": 3e-3}})
    train(config, runs)
    result = evaluate(str(runs), folders)
    assert result.metrics["mIoU"] > 0.8
    assert list(result.per_class) == ["1", "2"]
    file = root / "images" / "val" / "0.jpg"
    called = CliRunner().invoke(main, ["predict", str(runs), str(file), "--output", str(tmp_path / "out")])
    assert called.exit_code == 0, called.output
    written = np.asarray(Image.open(tmp_path / "out" / "00000-0.png"))
    found = predict(str(runs), [file])[0]
    assert np.array_equal(written, found["mask"])
    assert written.shape == (30, 40)
    assert json.loads((tmp_path / "out" / "predictions.json").read_text())[0]["labels"] == found["labels"]
    assert sum(found["scores"]) == pytest.approx(1)


def test_values_of_masks_are_checked_by_name(tmp_path: Path, runs: Path) -> None:
    root = write_stripes(tmp_path)
    folders = {"name": "maskfolder", "root": str(root), "class_map": {"a": 0, "b": 1}, "input_size": (3, 64, 64)}
    with pytest.raises(ValueError, match=r"0\.png has the value 2, but there are 2 classes, from 0"):
        train(Config({**SMALL, "data": folders}), runs)
    Image.new("L", (7, 30)).save(root / "annotations" / "training" / "0.png")
    with pytest.raises(TrainingError, match=r"0\.jpg has 40 x 30 pixels, but its mask has 7 x 30"):
        train(Config({**SMALL, "data": {**folders, "first_label": 1}}), runs)
    (root / "annotations" / "training" / "1.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no mask of the same name for 1 image: .*1\.jpg"):
        train(Config({**SMALL, "data": folders}), runs)


def test_columns_of_a_table_and_objects_of_coco_are_masks(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    images = [Image.new("RGB", (8, 6), (i, 0, 0)) for i in range(2)]
    masks = [Image.fromarray(np.full((6, 8), i + 1, dtype=np.uint8)) for i in range(2)]
    table = datasets.Dataset.from_dict(
        {"image": images, "annotation": masks},
        features=datasets.Features({"image": datasets.Image(), "annotation": datasets.Image()}),
    )
    table.to_parquet(str(tmp_path / "train.parquet"))
    data = {"input_size": (3, 32, 32), "class_map": {"a": 0, "b": 1}, "first_label": 1, "root": str(tmp_path / "cache")}
    samples = open_segmentation({"name": "hfds", "dataset": str(tmp_path), **data}, "train")
    assert [samples.load(i)["labels"].unique().tolist() for i in range(2)] == [[0], [1]]
    assert samples.load(0)["images"].shape == (3, 24, 32)

    (tmp_path / "pictures").mkdir()
    images[0].save(tmp_path / "pictures" / "a.png")
    runs = {"size": [6, 8], "counts": [0, 6, 42]}
    common = {"image_id": 1, "category_id": 7}
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 6}],
        "categories": [{"id": 7, "name": "thing"}],
        "annotations": [
            {**common, "id": 1, "bbox": [0, 0, 1, 6], "segmentation": runs, "iscrowd": 1},
            {**common, "id": 2, "bbox": [4, 0, 4, 3], "segmentation": [[4, 0, 8, 0, 8, 3, 4, 3]]},
        ],
    }
    (tmp_path / "a.json").write_text(json.dumps(content))
    data = {
        f"{split}_{key}": x
        for split in ("train", "val")
        for key, x in (("annotations", "a.json"), ("images", "pictures"))
    }
    data["root"] = str(tmp_path)
    samples = open_segmentation({"name": "coco", "input_size": (3, 32, 32), **data}, "train")
    mask = samples.load(0)["labels"]
    assert samples.classes == ["background", "thing"]
    assert (mask[:, 0] == IGNORED).all()
    assert mask.unique(return_counts=True)[1].tolist() == [6, 30, 12]


@pytest.mark.full
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize(("name", "size"), [("nat_pico", 64), ("shvit_pico", 128), ("agent_deit_pico", 224)])
def test_every_decoder_stands_on_networks_of_any_first_stride(name: str, size: int, decoder: str) -> None:
    network = create_segmenter(name, {}, {"name": decoder}, ["a", "b", "c"], PREPROCESSING)
    logits = network(torch.randn(2, 3, size, size))
    assert logits.shape == (2, 3, size, size)
    logits.square().mean().backward()
    assert [key for key, p in network.named_parameters() if p.grad is None] == []


def test_windows_cover_an_image_and_agree_with_a_network_that_sees_pixels() -> None:
    images = [torch.rand(3, 20, 50), torch.rand(3, 70, 9), torch.rand(3, 32, 24)]
    seen = []

    def network(batch: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(batch.shape))
        return batch.cumsum(1)

    answers = segment(network, images, (32, 24))
    assert {shape[1:] for shape in seen} == {(3, 32, 24)}
    assert max(shape[0] for shape in seen) == 3
    for image, answer in zip(images, answers, strict=True):
        assert_close(answer, image.cumsum(0))


def test_none_is_the_default_of_an_option_of_a_loss() -> None:
    logits, labels = torch.randn(2, 3, 4, 4), torch.randint(3, (2, 4, 4))
    names = {"name": ["focal", "cross_entropy"]}
    found = create_loss({**names, "gamma": None, "label_smoothing": None})(logits, labels)
    assert_close(found, create_loss(names)(logits, labels))


@pytest.mark.parametrize("name", ["cross_entropy", "dice", "focal", ["cross_entropy", "dice"]])
def test_ignored_pixels_have_no_gradient(name: Any) -> None:
    logits, labels = torch.randn(2, 3, 4, 4, requires_grad=True), torch.randint(3, (2, 4, 4))
    labels[0, :2] = IGNORED
    loss = create_loss({"name": name})
    loss(logits, labels).backward()
    assert logits.grad is not None
    assert not logits.grad[0, :, :2].any()
    assert logits.grad[0, :, 2:].any()
    assert torch.isfinite(loss(logits, torch.full_like(labels, IGNORED)))


NO_WIDTHS = {"pyramid_channels": None, "segmentation_channels": None}
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no decoder": ({"decoder": {"name": None}}, "decoder.name must be one of upernet"),
    "an option of another decoder": (
        {"decoder": {"dropout": 0.1, "width": 3}},
        "fpn: unknown config key decoder.width",
    ),
    "a value that a decoder cannot take": (
        {"decoder": {"name": "deeplabv3plus", **NO_WIDTHS, "atrous_rates": (1,)}},
        r"^decoder.atrous_rates=\(1,\): not enough values to unpack",
    ),
    "a value that a decoder cannot use": (
        {"decoder": {"name": "fpn", **NO_WIDTHS, "interpolation": "foo"}},
        r"^decoder.interpolation='foo': Input Error: .*got foo",
    ),
    "a number where a decoder takes a list": (
        {"decoder": {"name": "unet", "pyramid_channels": None, "segmentation_channels": None, "channels": 256}},
        "^decoder.channels must be a list in which each entry is an integer of at least 1 for unet, got 256",
    ),
    "text where a decoder takes a number": ({"decoder": {"dropout": "a"}}, "^decoder.dropout must be a number for fpn"),
    "None for a key of no decoder": ({"decoder": {"width": None}}, "fpn: unknown config key decoder.width"),
    "another resize": ({"data": {"resize": "stretch"}}, "data.resize must be one of fit, cover, none"),
    "a size that is no multiple of the stride": ({"data": {"input_size": (3, 40, 64)}}, "divisible by 32"),
    "timm's augmentation": ({"augment": {"hflip": 0.5}}, "augment must be a list of torchvision transforms"),
    "another loss": ({"loss": {"name": "bce"}}, "loss.name must be one of cross_entropy, dice, focal"),
    "an option of another loss": ({"loss": {"name": "dice", "gamma": 2}}, "loss: gamma is no option of dice"),
    **{
        f"{key} {value!r}": (
            {"loss": {"name": ["cross_entropy", "focal"], key: value}},
            f"^loss.{key} must be a number",
        )
        for key, values in {"gamma": ("abc", [2], -2), "label_smoothing": (2, "abc", -0.5, True)}.items()
        for value in values
    },
    "mixup": ({"mixup": {"mixup_alpha": 0.2}}, "mixup is for classification only"),
    "another task's key": ({"detector": {"head": "fcos"}}, "detector is for detection only"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_ends_in_one_line(case: str, runs: Path) -> None:
    changes, message = BAD[case]
    with pytest.raises(ValueError, match=message) as raised:
        train(small(**changes), runs)
    assert "\n" not in str(raised.value)


def test_other_classes_are_those_of_the_data_or_of_the_model(tmp_path: Path, runs: Path) -> None:
    data = {**write_masks(tmp_path, [0, 255], [128, 0]), "values": [0, 255]}
    named = {**data, "class_map": {"b": 0, "猫": 1}}
    train(Config({**SMALL, "model": {"name": "test_resnet"}, "epochs": 1, "data": named}), runs)
    called = CliRunner().invoke(main, ["evaluate", str(runs), "--worst", str(tmp_path / "worst")])
    assert called.exit_code == 0, called.output
    # the drawings have no names of classes
    assert "font" not in called.output
    message = "classes of the model and the data differ: b, 猫 only in the model; 0, 128 only in the data. Set data.*"
    with pytest.raises(ValueError, match=re.escape(message)):
        evaluate(str(runs), {**data, "values": [0, 128]})
    with pytest.raises(ValueError, match=r"the training data and the validation data differ: their order\. If"):
        check_classes({"the training data": "ab", "the validation data": "ba"}, OF_SPLITS)


def test_a_directory_that_does_not_match_is_refused(runs: Path) -> None:
    directory = train(small(epochs=1), runs)
    path = directory / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "label_names": ["a", "b"]}))
    write_sums(directory)
    with pytest.raises(ValueError, match=r"do not match: net\.segmentation_head"):
        open_segmenter(directory)


def test_balanced_weights_of_pixels() -> None:
    assert_close(class_weights("balanced", 3, [30, 0, 10]), torch.tensor([40 / 60, 0.0, 2.0]))


def test_mosaics_show_the_photograph_that_their_mask_says() -> None:
    pytest.importorskip("skimage")
    data = {"name": "mosaics", "size": 32, "input_size": (1, 32, 32), "train_images": 3}
    samples = open_segmentation(data, "train")
    loaded = [samples.load(i) for i in range(3)]
    assert {tuple(sample["images"].shape) for sample in loaded} == {(1, 32, 32)}
    assert all(2 <= len(sample["labels"].unique()) <= 5 for sample in loaded)
    assert torch.equal(samples.load(1)["images"], loaded[1]["images"])


def filled(segmenter: nn.Module) -> nn.Module:
    """Fills zeros, such as biases that are not trained: a network that has some is exported twice."""
    from attnzoo.tools.export.checking import without_zeros

    return without_zeros(segmenter) or segmenter


@pytest.mark.full
def test_a_file_returns_the_class_of_each_pixel(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")
    from attnzoo.tools.export import export_onnx

    decoder = {"name": "fpn", "pyramid_channels": 32, "segmentation_channels": 32}
    prepared = {**PREPROCESSING, "resize": "fit"}
    segmenter = filled(create_segmenter("test_resnet", {}, decoder, ["a", "b", "c"], prepared).eval())
    report = export_onnx(segmenter, tmp_path / "mask.onnx", task="mask")
    assert report.max_difference <= 1e-4
    assert (report.metadata["task"], report.metadata["labels"]) == ("mask", '["a", "b", "c"]')
    report = export_onnx(segmenter, tmp_path / "logits.onnx")
    assert report.metadata["task"] == "segment"


@pytest.mark.parametrize(
    "decoder",
    # the pyramid of UPerNet needs a form of its own
    [pytest.param(name, marks=pytest.mark.full if name == "upernet" else pytest.mark.slow) for name in DECODERS],
)
def test_a_file_takes_images_of_any_size(tmp_path: Path, decoder: str) -> None:
    pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")
    from attnzoo.tools.export import export_onnx

    prepared = {**PREPROCESSING, "resize": "none"}
    segmenter = filled(create_segmenter("test_resnet", {}, {"name": decoder}, ["a", "b", "c"], prepared).eval())
    report = export_onnx(segmenter, tmp_path / "any.onnx", dynamic="batch,height,width")
    # odd sides where the decoder takes them
    others = {(45, 77), (86, 45)} if decoder == "unet" else {(32, 96), (96, 32)}
    assert {shape[2:] for shape in report.checked} == {(64, 64), *others}


def test_the_palette_is_that_of_pascal_voc() -> None:
    assert palette(256)[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [0, 128, 0], [192, 128, 128], [224, 224, 192]
    ]  # fmt: skip


@pytest.mark.parametrize("name", [name for name in packaged_configs() if name.startswith("segmentation/")])
def test_packaged_configs_are_valid(name: str) -> None:
    recipe = Recipe.from_config(load_config(name))
    assert recipe.task == "segmentation"
    assert recipe.decoder["name"] in DECODERS
    Preparation(recipe.data, recipe.augment)
    create_loss(recipe.loss)
    optimizer = create_optimization(recipe, timm.create_model("test_vit"), Processes(0, 1, torch.device("cpu")))
    assert create_schedule(recipe, optimizer.optimizer, 3) is not None
    for decoder in DECODERS:
        chosen = load_config(name, [f"decoder.name={decoder}", "decoder.use_norm=False"]).decoder
        kept = {"use_norm": False} if decoder != recipe.decoder["name"] else {**recipe.decoder, "use_norm": False}
        assert chosen == {**kept, "name": decoder}


def test_none_leaves_out_an_argument_of_any_decoder() -> None:
    given = {"name": "fpn", "channels": None, "pyramid_channels": 32, "segmentation_channels": None}
    network: Any = create_segmenter("test_resnet", {}, given, ["a", "b"], PREPROCESSING)
    assert network.net.decoder.p5.out_channels == 32


def write_masks(root: Path, *rows: list[int]) -> dict[str, Any]:
    """Images with masks of the given rows of values, in training and validation; returns the data of a recipe."""
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (root / kind / split).mkdir(parents=True)
        for i, row in enumerate(rows):
            Image.new("RGB", (len(row), 1)).save(root / "images" / split / f"{i}.png")
            Image.fromarray(np.array([row], dtype=np.uint8)).save(root / "masks" / split / f"{i}.png")
    return {"name": "maskfolder", "root": str(root), "input_size": (3, 64, 64)}


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        (
            [0, 255],
            {},
            r"got '0': 50 % of the pixels of the training masks have a value of 255 \(data.ignore_index\) and are "
            "ignored: 255; a mask has the index",
        ),
        ([255], {}, "at least two classes, got none: 100 % of .* ignored: 255; a mask has"),
        ([7, 7], {}, "got '7': a mask has the index of the class of each pixel, or data.values"),
        ([0, 1], {"first_label": 1}, "got '1': 50 % .* have a value less than 1 .* ignored: 0; a mask"),
        ([0, 0], {"class_map": {"road": 0}}, "^the data must have at least two classes, got 'road'$"),
        (
            [3, 4],
            {"values": [0, 1]},
            "^no class has a pixel in the training masks: 100 % .* another value than those of .* ignored: 3, 4$",
        ),
        (
            [255, 255],
            {"class_map": {"a": 0, "b": 1}},
            "^no class has a pixel in the training masks: 100 % .* ignored: 255$",
        ),
    ],
)
def test_masks_of_one_class_are_refused_before_training(
    values: list[int], options: dict[str, Any], message: str, tmp_path: Path, runs: Path
) -> None:
    data = write_masks(tmp_path / "data", values)
    with pytest.raises(ValueError, match=message):
        train(Config({**SMALL, "data": {**data, **options}}), runs)
    assert not (runs / "last.pth").exists()


def test_masks_whose_values_are_listed(tmp_path: Path) -> None:
    data = {**write_masks(tmp_path, [0, 80, 7], [160, 255, 0]), "values": [255, 0, 160]}
    train_set = open_segmentation(data, "train")
    assert train_set.classes == ["255", "0", "160"]
    assert [train_set.source.mask(i).tolist() for i in range(2)] == [[[1, IGNORED, IGNORED]], [[2, 0, 1]]]
    config = Config({**SMALL, "model": {"name": "test_resnet"}, "data": data})
    assert "masks" not in segmentation(Recipe.from_config(config), Processes(0, 1, torch.device("cpu"))).facts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": [0, 0]}, r"data.values must list the value of each class, .* each once, such as .*, got \[0, 0\]$"),
        ({"values": [0, 65536]}, "from 0 to 65535"),
        ({"values": [True, 2]}, "must list the value of each class"),
        ({"values": 255}, "must list the value of each class, .* got 255"),
        ({"values": [1, 2], "first_label": 1}, "omit data.first_label"),
        ({"values": [0, 1], "ignore_index": 0}, "lists 0 as the value of a class, and data.ignore_index ignores it"),
        ({"ignore_index": "255"}, "data.ignore_index must be one value .*, an integer, or None, got '255'"),
        ({"ignore_index": [0, 1]}, r"an integer, or None, got \[0, 1\]; data.values=\[...\] lists"),
        ({"ignore_index": 0.5}, "an integer, or None, got 0.5"),
        ({"first_label": 1.5}, "data.first_label must be an integer, got 1.5"),
        ({"values": [1, 2, 3], "class_map": {"a": 0, "b": 1}}, "a value for each of the 2 classes of .*, got 3"),
    ],
)
def test_values_that_cannot_be_those_of_masks(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    data = {**write_masks(tmp_path, [0, 1]), **options}
    with pytest.raises(ValueError, match=message):
        open_segmentation(data, "train")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "coco", "background": "no"}, "^data.background must be True or False, got 'no'$"),
        ({"name": "coco"}, "^data: set data.root, which coco needs$"),
        ({"name": "yolo", "root": "x", "rot": 1}, "invalid keys for yolo: .*data.rot"),
        ({"name": "hfds", "dataset": "there"}, "data.class_map must name the classes"),
        ({"name": "hfds"}, "^data: set data.dataset, which hfds needs$"),
    ],
)
def test_keys_of_other_data_sets_are_checked(data: dict[str, Any], message: str) -> None:
    pytest.importorskip("datasets")
    with pytest.raises(ValueError, match=message):
        open_segmentation({"input_size": (3, 64, 64), **data}, "train")


@pytest.mark.parametrize(
    ("options", "weight", "said"),
    [
        (
            {},
            None,
            r"237 of 241 classes have no .*, whose values are 0, 80, 160, 240: set data.values=\[0,80,160,240\] ",
        ),
        (
            {"ignore_index": 0, "first_label": 80},
            None,
            r"158 of 161 classes have .* 80, 160, 240: set data.values=\[80,160,240\] if each",
        ),
        (
            {"class_map": {str(i): i for i in range(241)}},
            None,
            "237 of 241 classes have .* masks: 1, 2, 3.* and 229 more$",
        ),
        ({"class_map": {str(i): i for i in range(241)}}, "balanced", "237 of 241 .* and 229 more$"),
    ],
)
def test_classes_without_a_pixel_are_said(options: dict[str, Any], weight: Any, said: str, tmp_path: Path) -> None:
    data = {**write_masks(tmp_path, [0, 80], [160, 240]), **options}
    config = Config({**SMALL, "model": {"name": "test_resnet"}, "data": data, "loss": {"weight": weight}})
    setup = segmentation(Recipe.from_config(config), Processes(0, 1, torch.device("cpu")))
    assert re.search(said, setup.facts["masks"])


def test_many_values_of_which_most_do_not_occur_are_refused_before_training(tmp_path: Path, runs: Path) -> None:
    data = write_masks(tmp_path, [0, 1])
    for split in ("train", "val"):
        Image.fromarray(np.array([[0, 60000]], dtype=np.uint16)).save(tmp_path / "masks" / split / "0.png")
    with pytest.raises(ValueError, match=r"59999 of 60001 classes .* set data.values=\[0,60000\] if each is a class"):
        train(Config({**SMALL, "data": data}), runs)


def test_pixels_with_values_that_are_not_listed_are_said(tmp_path: Path) -> None:
    data = {**write_masks(tmp_path, [0, 80, 1, 7]), "values": [0, 80]}
    Image.fromarray(np.array([[0, 80, 80, 80]], dtype=np.uint8)).save(tmp_path / "masks" / "train" / "0.png")
    config = Config({**SMALL, "model": {"name": "test_resnet"}, "data": data})
    processes = Processes(0, 1, torch.device("cpu"))
    said = (
        "50 % of the pixels of the validation masks have another value than those of data.values and are ignored: 1, 7"
    )
    assert segmentation(Recipe.from_config(config), processes).facts["ignored"] == said
    Image.fromarray(np.array([[0, 0, 80, 80]], dtype=np.uint8)).save(tmp_path / "masks" / "val" / "0.png")
    assert "ignored" not in segmentation(Recipe.from_config(config), processes).facts


def test_an_evaluation_says_which_values_are_ignored(tmp_path: Path) -> None:
    classes = [str(i) for i in range(11)]
    segmenter = create_segmenter("test_resnet", {}, SMALL["decoder"], classes, {**PREPROCESSING, "resize": "fit"})
    prepared = Preparation(PREPROCESSING).stored
    save_network(
        segmenter, tmp_path / "run", "segmentation", "test_resnet", {}, classes, prepared, decoder=SMALL["decoder"]
    )
    data = {
        **write_masks(tmp_path / "data", [0, 1, 255, 2], [0] * 4),
        "class_map": {name: int(name) for name in classes},
    }
    said = r"12 % of the pixels of the validation masks have a value of 255 \(data.ignore_index\) and are ignored: 255"
    assert re.fullmatch(said, evaluate(str(tmp_path / "run"), data).remarks)


def test_one_folder_may_be_given_and_the_other_is_in_the_root(tmp_path: Path) -> None:
    data = write_masks(tmp_path / "data", [0, 1], [1, 1])
    other = tmp_path / "other"
    (tmp_path / "data" / "masks" / "train").rename(other)
    samples = open_segmentation({**data, "train_masks": str(other)}, "train")
    assert samples.source.pairs[0] == (tmp_path / "data" / "images" / "train" / "0.png", other / "0.png")
    with pytest.raises(FileNotFoundError, match=r"for train: expected .*, or set data.train_masks$"):
        open_segmentation({**data, "train_images": str(tmp_path / "data" / "images" / "train")}, "train")
    with pytest.raises(
        ValueError, match=r"location of its train images and masks: set data.root, or data.train_images$"
    ):
        open_segmentation({"name": "maskfolder", "train_masks": str(other)}, "train")
    with pytest.raises(FileNotFoundError, match=r"for test: expected .*test and [^,]*test$"):
        open_segmentation(data, "test")


def test_a_run_continues_with_moved_masks_unless_they_differ(
    tmp_path: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_masks(tmp_path / "data", [0, 1], [1, 1])
    config = Config({**SMALL, "model": {"name": "test_resnet"}, "data": data, "epochs": 1, "batch_size": 2})
    train(config, runs)
    masks = (tmp_path / "data" / "masks" / "train").rename(tmp_path / "moved")
    config.data.train_masks = str(masks)
    train(config, runs, resume=True)
    assert "data changed" not in capsys.readouterr().out
    Image.fromarray(np.array([[1, 0]], dtype=np.uint8)).save(masks / "0.png")
    with pytest.raises(
        ValueError, match=r"train_masks is .*, and the data is not the same: other contents of training"
    ):
        train(config, runs, resume=True)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_two_files_of_one_name_are_refused(kind: str, tmp_path: Path) -> None:
    data = write_masks(tmp_path, [0, 1])
    Image.new("L", (2, 1)).save(tmp_path / kind / "train" / "0.tif")
    with pytest.raises(ValueError, match=r"0\.png and .*0\.tif have the same name, .*: remove one"):
        open_segmentation(data, "train")


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_grey_masks_of_few_bits_have_their_own_values(bits: int, tmp_path: Path) -> None:
    values = np.arange(2**bits, dtype=np.uint8)[None]
    # Pillow writes grey images of one and eight bits only
    packed = np.packbits(np.unpackbits(values.T, axis=1)[:, 8 - bits :].ravel()).tobytes()
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 2**bits, 1, bits, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"\0" + packed)),
    ]
    written = [struct.pack(">I", len(x)) + name + x + struct.pack(">I", zlib.crc32(name + x)) for name, x in chunks]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(written))
    assert read_mask(tmp_path / "a.png", "a.png").tolist() == values.tolist()


@pytest.mark.parametrize(
    ("extension", "mode"),
    [(extension, mode) for extension in ("png", "tif") for mode in ("1", "L", "P", "I;16")]
    + [("gif", "L"), ("gif", "P"), ("bmp", "1"), ("bmp", "L"), ("bmp", "P"), ("pgm", "1"), ("pgm", "L")],
)
def test_masks_of_every_format_have_their_own_values(extension: str, mode: str, tmp_path: Path) -> None:
    values = np.array([[0, 1, 1], [1, 0, 0]] if mode == "1" else [[0, 1, 2], [3, 4, 1]])
    image = Image.fromarray(values.astype({"1": bool, "I;16": np.uint16}.get(mode, np.uint8)))
    if mode == "P":
        image.putpalette(bytes(range(256)) * 3)
    assert image.mode == mode
    image.save(tmp_path / f"a.{extension}")
    assert read_mask(tmp_path / f"a.{extension}", "a").tolist() == values.tolist()


@pytest.mark.parametrize("largest", [1, 2, 15, 100, 254, 255, 256, 1000, 65534, 65535])
@pytest.mark.parametrize("is_plain", [False, True])
def test_masks_of_pgm_have_their_own_values(largest: int, is_plain: bool, tmp_path: Path) -> None:
    values = sorted({0, 1, largest // 3, largest // 2, largest - 1, largest})
    stored = (
        " ".join(map(str, values)).encode()
        if is_plain
        else np.array(values, ">u2" if largest > 255 else "u1").tobytes()
    )
    (tmp_path / "a.pgm").write_bytes(b"P%d\n%d 1\n%d\n" % (2 if is_plain else 5, len(values), largest) + stored)
    assert read_mask(tmp_path / "a.pgm", "a.pgm").tolist() == [values]


def test_masks_are_turned_as_images_are(tmp_path: Path) -> None:
    data = write_masks(tmp_path, [0, 1, 2])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for kind in ("images", "masks"):
        with Image.open(path := tmp_path / kind / "train" / "0.png") as image:
            image.load()
        image.save(path, exif=exif)
        if kind == "images":
            [message] = open_segmentation(data, "train")[Draw(0)]["unreadable"]
            assert "has 1 x 3 pixels, but its mask has 3 x 1; one of the two may be turned by its EXIF" in message
    assert open_segmentation(data, "train")[Draw(0)]["labels"].tolist() == [[0], [1], [2]]


@pytest.mark.parametrize(
    ("mode", "name", "message"),
    [
        (
            "L",
            "a.jpg",
            r"a\.jpg cannot be read as a mask: it is not in one of the lossless formats PNG, .*: write it as PNG",
        ),
        ("RGB", "a.png", "it is a RGB image, .*: convert it, with the index of the class in place of each colour"),
    ],
)
def test_masks_in_other_formats_are_refused_with_what_to_do(mode: str, name: str, message: str, tmp_path: Path) -> None:
    Image.new(mode, (8, 6)).save(tmp_path / name)
    with pytest.raises(UnreadableImageError, match=message) as raised:
        read_mask(tmp_path / name, name)
    assert "\n" not in str(raised.value)
    assert "0x" not in str(raised.value)


def test_no_file_is_to_be_removed_for_a_value_that_is_no_class(tmp_path: Path, runs: Path) -> None:
    data = {**write_masks(tmp_path / "data", [0, 1], [0, 9]), "class_map": {"a": 0, "b": 1}}
    config = Config({**SMALL, "model": {"name": "test_resnet"}, "data": data})
    with pytest.raises(
        TrainingError, match=r"value 9, .*: set data.ignore_index, .* with the value of each class\. No step has been"
    ):
        train(config, runs)
    samples = open_segmentation(data, "val")
    with pytest.raises(ValueError, match=r"value 9, .*: set data.ignore_index, .* with the value of each class$"):
        Reading().judge(lambda model, loader, note: note(next(iter(loader))["unreadable"]), nn.Linear(1, 1), samples)


def test_no_more_masks_are_read_than_are_needed(tmp_path: Path) -> None:
    data = write_masks(tmp_path, [0, 255], [1, 0], [1, 1])
    samples = open_segmentation({**data, "class_map": {"a": 0, "b": 1}}, "train")
    assert samples.labels_present() == ({0, 1, IGNORED}, 2)
    assert samples.labels_present(most=1) == ({0, IGNORED}, 1)


def test_the_legend_has_room_for_long_names() -> None:
    picture = Image.new("RGB", (200, 100))
    found = {"indices": [0, 1], "labels": ["a" * 60, "b"], "scores": [0.7, 0.3]}
    drawn = {
        "mask": drawing._with_legend(picture, found, palette(2)),
        "classes": draw_probabilities(picture, found["labels"], found["scores"]),
    }
    for image in drawn.values():
        assert image.width > 500
        assert np.asarray(image.convert("L"))[-20:, -2:].min() == 255


def test_the_image_stays_visible_under_the_background_and_panels_have_names() -> None:
    picture, mask = Image.new("RGB", (3, 1), (200, 200, 200)), np.array([[0, 1, IGNORED]])
    blended = np.asarray(overlaid(picture, mask, palette(2)))[0].tolist()
    assert blended == [[170, 170, 170], [160, 90, 90], [200, 200, 200]]
    row = drawing._beside([picture.resize((30, 20))] * 3)
    assert row.size == (384, 85 + 22)
    below = np.asarray(row.convert("L"))[85:]
    assert [below[:, i * 128 : (i + 1) * 128].min() < 50 for i in range(3)] == [True] * 3
