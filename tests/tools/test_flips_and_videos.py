"""Test-time flips, and prediction on the frames of a video."""

import json

import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from torch import nn
from torch.testing import assert_close

from attnzoo.tools import cli
from attnzoo.tools.flips import FlippedClassifier, FlippedDetector
from attnzoo.tools.training.storage import save_model
from attnzoo.tools.video import read_frames, writing_video

DATA = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_pct": 1.0, "interpolation": "bilinear"}


def test_a_flipped_classifier_is_the_mean_of_both_sides():
    model = timm.create_model("test_resnet", num_classes=4).eval()
    images = torch.randn(3, 3, 32, 40)
    with torch.no_grad():
        expected = (model(images).softmax(1) + model(images.flip(-1)).softmax(1)) / 2
        flipped = FlippedClassifier(model)
        assert_close(flipped(images).exp(), expected)
        assert_close(flipped(images.flip(-1)), flipped(images))


class FindsBright(nn.Module):
    """Finds the bright columns of an image, if they are in its left half."""

    def forward(self, images):
        found = []
        for image in images:
            columns = (image[0, 0] > 0).nonzero().flatten()
            is_left = len(columns) > 0 and columns.max() < image.shape[-1] // 2
            box = [[float(columns.min()), 0.0, float(columns.max()) + 1, 5.0]] if is_left else []
            boxes = torch.tensor(box).reshape(-1, 4)
            found.append({"boxes": boxes, "labels": torch.ones(len(boxes)).long(), "scores": torch.ones(len(boxes))})
        return found


def test_a_flipped_detector_finds_what_it_finds_in_the_mirror_image():
    image = torch.zeros(1, 5, 20)
    image[..., 14:17] = 1
    assert not len(FindsBright()([image])[0]["boxes"])
    flipped = FlippedDetector(FindsBright())
    for given, box in ((image, [14.0, 0.0, 17.0, 5.0]), (image.flip(-1), [3.0, 0.0, 6.0, 5.0])):
        # found once, also where both sides find it
        assert flipped([given])[0]["boxes"].tolist() == [box]


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    with writing_video(path, 10) as add:
        for level in (20, 120, 220):
            add(Image.new("RGB", (65, 48), (level, level, level)))
    return path


def test_frames_are_read_as_they_were_written(clip):
    frames = list(read_frames(clip))
    assert [(frame.number, round(frame.seconds, 2)) for frame in frames] == [(0, 0.0), (1, 0.1), (2, 0.2)]
    # the codec takes even sides, and loses a little
    assert frames[0].picture.size == (64, 48)
    assert [
        abs(frame.picture.getpixel((30, 20))[0] - level) < 8
        for frame, level in zip(frames, (20, 120, 220), strict=True)
    ] == [True] * 3


def test_a_video_is_predicted_frame_by_frame(clip, tmp_path):
    model = timm.create_model("test_resnet", num_classes=2)
    save_model(model, tmp_path / "model", {}, DATA, ["left", "right"])
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    Image.new("RGB", (40, 30)).save(tmp_path / "picture.png")
    files = [tmp_path / name for name in ("clip.mp4", "broken.mp4", "picture.png")]
    command = ["predict", tmp_path / "model", *files, "--output", tmp_path / "out", "--flip", "--batch-size", 2]
    result = CliRunner().invoke(cli.main, list(map(str, command)))
    assert result.exit_code == 0, result.output
    assert "clip.mp4, frame 2: " in result.stdout
    assert "broken.mp4 cannot be read as a video" in result.stderr
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert [entry.get("frame") for entry in found] == [0, 1, 2, None, None]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "00000-clip.mp4", "00004-picture.jpg", "predictions.json",
    ]  # fmt: skip
    assert len(list(read_frames(tmp_path / "out" / "00000-clip.mp4"))) == 3
