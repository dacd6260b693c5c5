"""Without published weights, every command ends in one line; with random ones, it says so."""

import time

import pytest
from click.testing import CliRunner
from PIL import Image

from attnzoo.base import WeightsError
from attnzoo.tools.evaluate import Evaluation
from attnzoo_command import main

REASONS = "https://a.org/x.pth: HTTP 404 Not Found; https://b.org/x.pth: no connection: Name or service not known"


@pytest.fixture
def pictures(tmp_path):
    for split in ("train", "val"):
        for name in ("a", "b"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(folder / "1.png")
    return tmp_path / "pictures"


@pytest.fixture
def offline(monkeypatch):
    def fail(name, *_):
        raise WeightsError(name, REASONS, "https://c.org")

    monkeypatch.setattr("attnzoo.base.pretrained.fetch", fail)


@pytest.mark.parametrize("command", ["predict", "evaluate", "export", "train a classifier", "train a detector"])
def test_a_command_ends_in_a_line_that_names_every_source(command, pictures, offline, tmp_path):
    train = ["model.name=nat_mini", "model.pretrained=True", "--work-dir", str(tmp_path / "run")]
    arguments = {
        "predict": ["predict", "nat_mini", "--pretrained", str(pictures)],
        "evaluate": ["evaluate", "nat_mini", "--pretrained", "data.name=imagefolder", f"data.root={pictures}"],
        "export": ["export", "nat_mini", "--pretrained", "--output", str(tmp_path / "x.onnx")],
        "train a classifier": ["train", "classification/imagefolder", f"data.root={pictures}", *train],
        "train a detector": ["train", "detection/digits", "data.train_images=2", "data.val_images=2", *train],
    }
    result = CliRunner().invoke(main, arguments[command])
    assert result.exit_code == 2, result.output
    said = result.stderr.splitlines()[-1]
    assert f"the published weights of nat_mini cannot be loaded: {REASONS}. " in said
    assert ("model.pretrained_cfg_overlay.file" if "train" in command else "attnzoo convert") in said
    assert "Traceback" not in result.output


def test_a_model_of_timm_does_not_wait_for_a_connection(pictures, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    address = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", address)
    start = time.perf_counter()
    result = CliRunner().invoke(main, ["predict", "test_resnet", "--pretrained", str(pictures)])
    assert time.perf_counter() - start < 10
    assert result.stderr == (
        "Error: the published weights of test_resnet cannot be loaded: "
        "https://huggingface.co/timm/test_resnet.r160_in1k: no connection: Connection refused. "
        "The environment variables HF_HOME and TORCH_HOME set the folders of downloads\n"
    )


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_random_weights_are_said(command, pictures, monkeypatch):
    # a thousand classes of pictures would be needed
    result = Evaluation({"accuracy": 0.001}, {}, frozenset({"accuracy"}), [], {}, "cpu")
    monkeypatch.setattr("attnzoo.tools.evaluate.evaluate", lambda *_, **__: result)
    for name, is_said in (("nat_pico", True), (str(pictures), False)):
        result = CliRunner().invoke(
            main, [command, name, str(pictures) if command == "predict" else "data.name=digits"]
        )
        assert ("note: the weights are random; use --pretrained" in result.stderr) == is_said
