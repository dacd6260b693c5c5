"""The scripts of examples/clients run, and learn."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

from ..zoo.models import ARGUMENTS, SMALL

EXAMPLES = Path(__file__).parents[2] / "examples" / "clients"
pytestmark = pytest.mark.filterwarnings("ignore")


def load(monkeypatch: pytest.MonkeyPatch, script: str, client: str) -> dict[str, Any]:
    """Returns what a script defines, or skips the test if its client is not installed."""
    pytest.importorskip(client, reason="needs attnzoo[clients]" if client != "fastai" else "needs fastai")
    pytest.importorskip("sklearn", reason="needs attnzoo[train]")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return runpy.run_path(str(EXAMPLES / script))


@pytest.mark.parametrize(
    "name",
    [
        "nat_pico",
        pytest.param("swin_pico", marks=pytest.mark.full),
        pytest.param("agent_deit_pico", marks=pytest.mark.full),
    ],
)
def test_lightning(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    train = load(monkeypatch, "lightning_module.py", "lightning")["train"]
    assert train(name, epochs=1) > (0.4 if name == "nat_pico" else 0.2)


@pytest.mark.parametrize("name", ["nat_pico", "swin_pico"])
def test_fastai(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    train = load(monkeypatch, "fastai_learner.py", "fastai")["train"]
    assert train(name, epochs=1) > 0.3


@pytest.mark.parametrize("name", [name for name in SMALL if name != "mambaout_pico"])
def test_fastai_takes_networks_that_pool(name: str) -> None:
    learner = pytest.importorskip("fastai.vision.learner", reason="needs fastai")
    arguments = {"pretrained_cfg_overlay": {"pool_size": None}, **ARGUMENTS.get(name, {})}
    model, _ = learner.create_timm_model(name, 4, pretrained=False, **arguments)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 4)


def test_segmentation(monkeypatch: pytest.MonkeyPatch) -> None:
    train = load(monkeypatch, "segmentation_decoder.py", "segmentation_models_pytorch")["train"]
    assert train("swin_pico", "FPN", steps=8) > 0.6


def test_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    maps = load(monkeypatch, "transformers_backbone.py", "transformers")["maps"]
    found = maps("biformer_pico", torch.randn(1, 3, 64, 64))
    assert [tuple(x.shape[2:]) for x in found] == [(16, 16), (8, 8), (4, 4), (2, 2)]
