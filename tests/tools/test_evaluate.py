import csv
import json

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn

from attnzoo.tools import cli
from attnzoo.tools.data import ClassifiedImages, Draw, digits, val_transform
from attnzoo.tools.evaluate import Reordered, label_order
from attnzoo.tools.metrics import ClassificationJudge
from attnzoo.tools.train import train
from attnzoo.tools.training.config import load_config
from attnzoo.tools.training.storage import save_model

DATA = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0, "interpolation": "bilinear"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of a classifier that recognizes some digits."""
    directory = tmp_path_factory.mktemp("run") / "run"
    train(load_config("classification/digits", ("model.name=test_resnet", "epochs=2")), directory)
    return directory


@pytest.fixture
def call():
    return lambda *arguments: CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def save_digits(folder, count=40):
    """Writes held-out digits as image files, in one folder per class."""
    source = digits("val")
    for index in range(count):
        picture, label = source.open(index)
        path = folder / "val" / str(label) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


@pytest.mark.parametrize("config", [["classification/digits"], []], ids=["a config", "that of the run"])
def test_what_was_measured_in_training_is_measured_again(run, call, tmp_path, config):
    # the work directory stands for the model in it
    result = call("evaluate", run, *config, "--output", tmp_path / "metrics.json")
    assert result.exit_code == 0, result.output
    measured = json.loads((tmp_path / "metrics.json").read_text())
    best = torch.load(run / "best.pth", weights_only=True)["record"]["best"]
    # the history has the loss of the training too
    expected = {key.removeprefix("val_"): x for key, x in best.items() if key != "epoch"}
    assert measured["metrics"] == pytest.approx(expected, abs=1e-6)
    assert set(measured["per_class"]) == {str(i) for i in range(10)}
    rows = measured["per_class"].values()
    assert sum(row["images"] for row in rows) == 360
    assert sum(row["recall"] * row["images"] for row in rows) / 360 == pytest.approx(best["accuracy"], abs=1e-6)
    assert f"{best['accuracy']:.2%}" in result.output


def test_a_folder_of_pictures_is_judged_by_its_class_names(run, call, tmp_path):
    save_digits(tmp_path / "photos")
    # the training read these images as arrays: the accuracy is the same
    arguments = ("data.name=imagefolder", f"data.root={tmp_path / 'photos'}", "--output", tmp_path / "metrics.json")
    result = call("evaluate", run / "model", *arguments)
    assert result.exit_code == 0, result.output
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    samples = ClassifiedImages(digits("val"), val_transform(DATA), 1)
    batch = samples.collate([samples[Draw(i)] for i in range(40)])
    with torch.no_grad():
        expected = float((model(batch["images"]).argmax(1) == batch["labels"]).float().mean())
    measured = json.loads((tmp_path / "metrics.json").read_text())
    assert measured["metrics"]["accuracy"] == pytest.approx(expected, abs=1e-6)


def test_images_have_the_size_of_the_model_unless_an_option_says_another(run, call, tmp_path):
    save_digits(tmp_path / "photos", 12)
    (tmp_path / "photos" / "val").rename(tmp_path / "photos" / "test")
    config = tmp_path / "mine.py"
    config.write_text(f"data = dict(name='imagefolder', root={str(tmp_path / 'photos')!r}, input_size=(1, 64, 64))")
    arguments = ("evaluate", run, config, "--split", "test", "--output", tmp_path / "metrics.json")
    for options, side in (((), 32), (("data.input_size=(1,16,16)",), 16)):
        result = call(*arguments, *options)
        assert result.exit_code == 0, result.output
        assert f"input_size 1 x {side} x {side}, mean 0.5" in result.output
        assert json.loads((tmp_path / "metrics.json").read_text())["preprocessing"]["input_size"] == [1, side, side]
    absent = call("evaluate", run, config, "--split", "tset")
    assert "has no folder or tar file tset, found test" in absent.stderr


def test_an_unreadable_picture_stops_or_is_listed(run, call, tmp_path):
    save_digits(tmp_path / "photos", 12)
    (tmp_path / "photos" / "val" / "3" / "broken.png").write_bytes(b"")
    arguments = ("evaluate", run / "model", "data.name=imagefolder", f"data.root={tmp_path / 'photos'}")
    stopped = call(*arguments)
    assert stopped.exit_code == 2
    assert "broken.png" in stopped.stderr
    assert len(stopped.stderr.splitlines()) == 1
    skipped = call(*arguments, "--skip-unreadable")
    assert skipped.exit_code == 0, skipped.output
    assert "skipped 1 file that could not be read" in skipped.output
    assert "broken.png" in skipped.output


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        pytest.param(["nat_pica", "classification/digits"], ["nat_pica", "nat_pico"], id="unknown model"),
        pytest.param(["test_resnet"], ["no data set is given"], id="no data"),
        pytest.param(["runs/absent"], ["'runs/absent' is neither a model name nor a directory"], id="no directory"),
        pytest.param(["MODEL", "classification/nothing"], ["no config", "classification/digits"], id="unknown config"),
        pytest.param(["MODEL", "epochs=3"], ["data.key=value", "epochs=3"], id="not about data"),
        pytest.param(["MODEL", "data.name=digits", "--split", "test"], ["split", "test"], id="unknown split"),
        pytest.param(["MODEL", "data.name=photographs"], ["does not know", "brick"], id="other classes"),
        pytest.param(["test_resnet", "classification/digits"], ["1000", "10"], id="other number of classes"),
    ],
)
def test_a_mistake_ends_in_one_line(run, call, arguments, says):
    result = call("evaluate", *(str(run / "model") if word == "MODEL" else word for word in arguments))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert all(word in result.stderr for word in says), result.stderr


@pytest.mark.parametrize(
    "command",
    [["evaluate", "{}", "--worst"], ["predict", "{}", __file__, "--output"], ["see", "{}", __file__, "--output"]],
)
def test_no_folder_is_left_of_a_model_that_does_not_exist(call, tmp_path, command):
    folder = tmp_path / "folder"
    result = call(*(word.format(tmp_path / "absent") for word in command), str(folder))
    assert (result.exit_code, len(result.stderr.splitlines())) == (2, 1), result.output
    assert "is neither a model name nor a directory" in result.stderr
    assert not folder.exists()


def test_classes_may_stand_in_another_order_than_the_model_has_them():
    assert label_order(["a", "b", "c"], ["a", "b", "c"], 3) is None
    order = label_order(["cat", "dog", "owl"], ["owl", "cat"], 3)
    assert order == [2, 0]
    given = Reordered(nn.Identity(), order)(torch.tensor([[1.0, 2.0, 3.0]]))
    assert given.tolist() == [[3.0, 1.0]]


def test_metrics_that_agree_on_the_first_batch_are_still_counted_apart():
    # all correct in the first batch; in the second batch the true class is in second place
    logits = torch.eye(6).repeat(2, 1)
    labels = torch.cat([torch.arange(6), (torch.arange(6) + 1) % 6])
    names = [f"{i}.png" for i in range(12)]
    parts = {"images": logits, "labels": labels, "name": names}
    batches = [{**{key: x[i : i + 6] for key, x in parts.items()}, "unreadable": []} for i in (0, 6)]
    judge = ClassificationJudge(6, torch.device("cpu"), is_detailed=True)
    metrics = judge(nn.Identity(), batches, lambda unreadable: None)
    assert metrics["accuracy"] == 0.5
    assert metrics["top5"] > 0.5
    assert judge.per_class == [{"f1": 0.5, "precision": 0.5, "recall": 0.5, "images": 2}] * 6
    assert judge.confusion.tolist() == (torch.eye(6).long() + torch.eye(6).long().roll(1, 0)).tolist()
    assert [image.name for image in judge.images] == names
    assert [image.classes[0] for image in judge.images] == [*range(6), *range(6)]


def test_mistakes_of_a_classifier_are_drawn_and_tabled(run, call, tmp_path):
    save_digits(tmp_path / "photos", 60)
    # an image in the folder of another class is the most confident mistake
    moved = next((tmp_path / "photos" / "val" / "0").iterdir())
    moved.rename(tmp_path / "photos" / "val" / "1" / "moved.png")
    data = ("data.name=imagefolder", f"data.root={tmp_path / 'photos'}")
    result = call("evaluate", run, *data, "--worst", tmp_path / "worst", "--output", tmp_path / "metrics.json")
    assert result.exit_code == 0, result.output
    assert "most frequent mistakes" in result.output
    names = sorted(path.name for path in (tmp_path / "worst").iterdir())
    assert names[-1].startswith("worst-16-")
    wrong = [name for name in names if name.startswith("confident-")]
    assert any("moved" in name for name in wrong)
    with (tmp_path / "worst" / "confusion.csv").open() as file:
        table = list(csv.reader(file))
    assert table[0][1:] == [str(i) for i in range(10)]
    counts = [[int(cell) for cell in row[1:]] for row in table[1:]]
    assert sum(map(sum, counts)) == 60
    mistakes = 60 - sum(counts[i][i] for i in range(10))
    assert len(wrong) == min(mistakes, 16)
    measured = json.loads((tmp_path / "metrics.json").read_text())
    assert all(counts[int(x["true"])][int(x["predicted"])] == x["images"] for x in measured["confused"])
    with Image.open(tmp_path / "worst" / "confusion.png") as picture:
        assert min(picture.size) > 300


def test_predictions_are_those_of_the_model(run, call, tmp_path):
    save_digits(tmp_path / "photos", 6)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    result = call("predict", run / "model", tmp_path / "photos", "--output", tmp_path / "out", "--top", 3)
    assert result.exit_code == 0, result.output
    assert "broken.jpg cannot be read" in result.stderr
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert len(found) == 7
    model = timm.create_model(f"local-dir:{run / 'model'}", pretrained=True).eval()
    transform = val_transform(DATA)
    for entry in found:
        if "error" in entry:
            continue
        with torch.no_grad(), Image.open(entry["file"]) as picture:
            scores, classes = model(transform(picture.convert("L"))[None]).softmax(1)[0].topk(3)
        assert entry["labels"] == [str(i) for i in classes.tolist()]
        assert entry["scores"] == pytest.approx(scores.tolist(), abs=1e-5)
    assert len(list((tmp_path / "out").glob("*.jpg"))) == 6


def test_predict_without_a_readable_picture_fails(run, call, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"")
    assert call("predict", run / "model", tmp_path / "broken.jpg").exit_code == 1
    (tmp_path / "empty").mkdir()
    for command in ("predict", "see"):
        empty = call(command, run / "model", tmp_path / "empty", "--output", tmp_path / "out")
        assert (empty.exit_code, empty.stderr.count("\n")) == (2, 1)
        assert f"there are no images in {tmp_path / 'empty'} (.jpg" in empty.stderr
        assert not (tmp_path / "out").exists()
    assert "neither a file nor a folder" in call("predict", run / "model", tmp_path / "nowhere").stderr


def test_a_model_with_names_of_its_own_says_them(call, tmp_path):
    model = timm.create_model("test_resnet", num_classes=2, in_chans=1)
    save_model(model, tmp_path / "model", {"in_chans": 1}, DATA, ["left", "right"])
    Image.new("L", (40, 30), 128).save(tmp_path / "grey.png")
    result = call("predict", tmp_path / "model", tmp_path / "grey.png")
    assert result.exit_code == 0, result.output
    assert "left" in result.output
    assert "right" in result.output


def test_a_detector_is_judged_and_shows_what_it_finds(call, tmp_path):
    options = ("model.name=test_resnet", "epochs=1", "batch_size=4", "data.train_images=8", "data.val_images=4")
    result = call("train", "detection/digits", *options, "--work-dir", tmp_path / "run")
    assert result.exit_code == 0, result.output
    model = tmp_path / "run" / "model"
    arguments = ("detection/digits", "data.val_images=4", "--worst", tmp_path / "worst")
    result = call("evaluate", model, *arguments, "--output", tmp_path / "metrics.json")
    assert result.exit_code == 0, result.output
    best = torch.load(tmp_path / "run" / "best.pth", weights_only=True)["record"]["best"]
    measured = json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    assert measured == pytest.approx({key: x for key, x in best.items() if key != "epoch"}, abs=1e-6)
    assert len(list((tmp_path / "worst").iterdir())) == 4
    Image.new("L", (128, 128), 90).save(tmp_path / "grey.png")
    result = call("predict", model, tmp_path / "grey.png", "--output", tmp_path / "out", "--least-score", 0.0)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())[0]
    assert len(found["boxes"]) == len(found["labels"]) == len(found["scores"])
    assert (tmp_path / "out" / "00000-grey.jpg").exists()
