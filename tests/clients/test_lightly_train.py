"""The wrapper of docs/clients.md, in lightly-train."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import attnzoo  # noqa: F401  registers the models

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["nat_pico", "agent_deit_pico"])
def test_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    lightly_train = pytest.importorskip("lightly_train", reason="needs lightly-train")
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "Wrapped" in code)
    network = timm.create_model(name, num_classes=0)
    # lightly-train pickles the wrapper
    (tmp_path / "wrapped.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "wrapped", raising=False)
    wrapper = importlib.import_module("wrapped").Wrapped(network)
    (tmp_path / "images").mkdir()
    for i in range(8):
        noise = np.random.default_rng(i).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / "images" / f"{i}.png")
    before = torch.cat([p.detach().flatten() for p in network.parameters()])
    lightly_train.pretrain(
        out=str(tmp_path / "out"), data=str(tmp_path / "images"), model=wrapper, method="simclr",
        epochs=1, batch_size=4, num_workers=0, accelerator="cpu", devices=1, transform_args={"image_size": (64, 64)},
    )  # fmt: skip
    stored = torch.load(tmp_path / "out" / "exported_models" / "exported_last.pt", weights_only=True)
    network.load_state_dict(stored)
    after = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert after.isfinite().all()
    assert not torch.equal(before, after)
