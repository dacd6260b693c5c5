"""`attnzoo bench models` on tiny models."""

import json
from pathlib import Path

import torch
from click.testing import CliRunner

from attnzoo.tools import cli
from attnzoo.tools.timing import HostMeter
from benchmarks import models

CPU = torch.device("cpu")


def test_two_models_are_measured_and_written(tmp_path: Path) -> None:
    command = ["bench", "models", "nat_pico", "test_vit", "--image-size", "64", "--batch", "2", "--quick"]
    done = CliRunner().invoke(cli.main, [*command, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "images/s" in done.output
    (path,) = tmp_path.glob("models-*.json")
    results = json.loads(path.read_text())
    assert {"cpu", "torch", "timm", "method", "notes"} <= set(results)
    measured = [(row["model"], row["mode"], row["direction"]) for row in results["rows"]]
    assert len(set(measured)) == len(measured) == 2 * 2 * 2
    for row in results["rows"]:
        times, rates = row["milliseconds"], row["images_per_second"]
        assert 2e3 / times["p90"] <= rates["median"] * 1.001
        assert rates["median"] <= 2e3 / times["p10"] * 1.001


def test_an_unknown_model_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.main, ["bench", "models", "nat_pica", "--out", str(tmp_path)])
    assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
    assert "'nat_pica'" in done.stderr


def test_a_row_that_fails_says_why() -> None:
    # 60 pixels are no multiple of the patch
    rows = list(models.measure(["test_vit", "nat_pico"], CPU, 1, 60, models.MODES[:1], HostMeter(0)))
    failed = [row["model"] for row in rows if "error" in row]
    assert failed == ["test_vit"] * 2
    assert len(rows) == 4


def test_a_training_step_changes_the_weights(monkeypatch) -> None:
    made = []
    create = models.timm.create_model
    monkeypatch.setattr(models.timm, "create_model", lambda *a, **k: made.append(create(*a, **k)) or made[-1])
    step = models.prepare("nat_pico", CPU, 2, 32, models.CHANNELS_LAST, is_training=True)
    before = [x.detach().clone() for x in made[0].parameters()]
    step()
    assert any(not torch.equal(a, b) for a, b in zip(before, made[0].parameters(), strict=True))
    assert made[0].training
    assert all(x.grad is None for x in made[0].parameters())
