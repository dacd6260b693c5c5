"""Counters of operations find every layer: the figures of models are those that were published."""

from __future__ import annotations

import pytest
import timm
import torch

from attnzoo import published

# attention is a small part of the operations of these: counters that only see layers count enough
NAMES = ["zoo_shvit_s1", "van_b0"]


@pytest.mark.parametrize("name", NAMES)
def test_thop(name: str) -> None:
    thop = pytest.importorskip("thop", reason="needs attnzoo[clients]")
    operations, _ = thop.profile(timm.create_model(name).eval(), (torch.randn(1, 3, 224, 224),), verbose=False)
    assert operations / 1e9 == pytest.approx(published(name)["gflops"], rel=0.05)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.filterwarnings("ignore")
def test_fvcore(name: str) -> None:
    fvcore = pytest.importorskip("fvcore.nn", reason="needs attnzoo[clients]")
    analysis = fvcore.FlopCountAnalysis(timm.create_model(name).eval(), torch.randn(1, 3, 224, 224))
    operations = analysis.unsupported_ops_warnings(False).total()
    assert operations / 1e9 == pytest.approx(published(name)["gflops"], rel=0.05)
