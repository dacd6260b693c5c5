"""The demo: what it writes, when it fails, and what its figure shows."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import timm
import timm.models
import torch

pytest.importorskip("mmengine", reason="needs attnzoo[train]")
pytest.importorskip("onnxruntime", reason="needs attnzoo[export]")

from click.testing import CliRunner
from matplotlib.figure import Figure

import attnzoo  # noqa: F401
from attnzoo.tools import train as training
from attnzoo.tools.cli import main
from attnzoo.tools.demo import DemoError, demo
from attnzoo.tools.figure import draw_digits
from attnzoo.tools.training.loop import InterruptedTraining

PNG = b"\x89PNG\r\n\x1a\n"


def untrained(config: object, work_dir: Path, resume: bool = False) -> Path:
    """In place of `train`: an untrained model, stored like a trained one."""
    data = {"input_size": (1, 32, 32), "mean": (0.5,), "std": (0.5,), "crop_pct": 1.0}
    model = timm.create_model("nat_pico", num_classes=10, in_chans=1)
    config = {"label_names": list("0123456789"), "pretrained_cfg": data}
    timm.models.save_for_hf(model, str(work_dir / "model"), config, {"in_chans": 1}, safe_serialization=True)
    return work_dir / "model"


@pytest.mark.full
def test_leaves_model_file_and_picture_and_fails_below_the_bar(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(training, "train", untrained)
    stale = tmp_path / "digits-training" / "model"
    stale.mkdir(parents=True)
    (stale / "leftover").touch()
    # an untrained model has an accuracy of about 10 %: everything is written and measured, then the demo fails
    with pytest.raises(DemoError, match=r"the accuracy on the held-out digits must be at least 99%, got \d"):
        demo(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits-training", "digits.onnx", "digits.png"]
    assert not (stale / "leftover").exists()
    assert (tmp_path / "digits.png").read_bytes().startswith(PNG)
    assert "accuracy on held-out digits" in capsys.readouterr().out


def test_interrupted_training_leaves_nothing_of_an_earlier_demo(tmp_path, monkeypatch):
    def interrupted(config: object, work_dir: Path, resume: bool = False) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train", interrupted)
    for name in ("digits.onnx", "digits.png"):
        (tmp_path / name).touch()
    (tmp_path / "mine.txt").touch()
    with pytest.raises(KeyboardInterrupt):
        demo(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_training_continues_and_a_finished_demo_starts_over(tmp_path, monkeypatch):
    kept = []

    def interrupted(config: object, work_dir: Path, resume: bool = False) -> Path:
        kept.append((resume, (work_dir / "last.pth").exists()))
        work_dir.mkdir(exist_ok=True)
        (work_dir / "last.pth").touch()
        raise InterruptedTraining("stopped by SIGINT after step 3 of 9; the run is stored", signal.SIGINT)

    monkeypatch.setattr(training, "train", interrupted)
    for _ in range(2):
        result = CliRunner().invoke(main, ["demo", "--work-dir", str(tmp_path)])
        assert result.exit_code == 130
        assert (
            result.stderr == "stopped by SIGINT after step 3 of 9; the run is stored; the same command continues it\n"
        )
    assert kept == [(True, False), (True, True)]
    (tmp_path / "digits.png").touch()
    CliRunner().invoke(main, ["demo", "--work-dir", str(tmp_path)])
    assert kept[-1] == (True, False)


@pytest.mark.slow
def test_short_training_end_to_end(tmp_path):
    report = demo(tmp_path, required_accuracy=0.15, overrides=["epochs=1"])
    assert report.accuracy_eager == report.accuracy_onnx >= 0.15
    assert report.max_difference <= 1e-4
    assert report.latency_ratio > 0
    assert report.onnx_size == report.onnx.stat().st_size
    assert timm.create_model(f"local-dir:{report.model}", pretrained=True).num_classes == 10
    assert report.picture.read_bytes().startswith(PNG)


def test_the_figure_has_titles_and_axis_labels(tmp_path, monkeypatch):
    figures, save = [], Figure.savefig

    def recorded(self, *arguments, **options):
        figures.append(self)
        save(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", recorded)
    model = timm.create_model("nat_pico", num_classes=10, in_chans=1).eval()
    labels = torch.arange(20) % 10
    logits = torch.nn.functional.one_hot((labels + (labels == 3)) % 10, 10).float()
    draw_digits(tmp_path / "digits.png", model, torch.rand(20, 1, 32, 32), labels, logits, list("0123456789"))
    panels = figures[0].subfigs
    assert [panel.get_suptitle() for panel in panels] == [
        "Predictions: 18 of 20 held-out digits correct; errors in red",
        "Confusion matrix",
        "Attention of one pixel in its 3x3 neighborhood",
    ]
    assert panels[0].axes[0].get_title() == "4 (true: 3)"
    assert (panels[1].axes[0].get_xlabel(), panels[1].axes[0].get_ylabel()) == ("predicted", "true")
