"""The learning-rate finder, and the batch size that the memory of a GPU has room for."""

import json
import math

import pytest
import torch
from click.testing import CliRunner

from attnzoo.tools import cli
from attnzoo.tools.train import train
from attnzoo.tools.training import batch_size, rate_finder
from attnzoo.tools.training.batch_size import largest
from attnzoo.tools.training.rate_finder import smoothed, steepest


def test_the_rate_is_where_the_loss_falls_fastest():
    rates = [10 ** (-6 + 6 * i / 99) for i in range(100)]
    # a step down at 1e-3, and a divergence from 1e-1
    losses = [2 / (1 + math.exp(4 * (math.log10(rate) + 3))) + 30 * max(0, math.log10(rate) + 1) for rate in rates]
    # the average of the loss lags behind
    assert 1e-3 < steepest(rates, losses) < 5e-3
    with pytest.raises(ValueError, match="falls at no learning rate"):
        steepest(rates, sorted(losses))
    assert smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0, 3.0, 3.0])


def test_find_lr_says_a_rate_and_draws_the_curve(few_digits, tmp_path, monkeypatch):
    monkeypatch.setattr(rate_finder, "_STEPS", 40)
    options = ["classification/digits", "model.name=test_resnet", "batch_size=16", "--work-dir", str(tmp_path)]
    result = CliRunner().invoke(cli.main, ["train", *options, "--find-lr"])
    assert result.exit_code == 0, result.output
    rate = float(result.stdout.split("optimizer.lr=")[1].split(";")[0])
    assert 1e-5 < rate < 0.5
    assert [path.name for path in tmp_path.iterdir()] == ["learning-rate.png"]


@pytest.mark.parametrize(("room", "most", "size"), [(0, 99, 0), (1, 99, 1), (23, 99, 16), (64, 99, 64), (999, 99, 64)])
def test_the_batch_size_is_the_largest_power_of_two_that_fits(room, most, size):
    assert largest(lambda images: images <= room, most) == size


def test_an_automatic_batch_size_needs_a_gpu(small_config, runs):
    with pytest.raises(ValueError, match=r'batch_size="auto" measures .* the device is cpu: set a number'):
        train(small_config("batch_size=auto", "device=cpu"), runs)


def test_a_run_keeps_the_batch_size_that_was_chosen(few_digits, small_config, runs, monkeypatch):
    for size, epochs in ((24, 1), (8, 2)):
        monkeypatch.setattr(batch_size, "largest_batch_size", lambda recipe, processes, size=size: size)
        train(small_config("batch_size=auto", f"epochs={epochs}"), runs, resume=True)
        stored = torch.load(runs / "last.pth", weights_only=True)
        assert json.loads(stored["recipe"])["batch_size"] == 24
    assert "batch_size = 24" in (runs / "config.py").read_text()
