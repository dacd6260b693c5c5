"""Fixtures for the examples, which are imported from their folder as a user runs them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trained_files import EXAMPLES, export_trained, export_unchecked, save_detecting, save_segmenting, save_trained

from attnzoo.tools.detection.options import RESIZES

sys.path.insert(0, str(EXAMPLES))


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    return save_trained(tmp_path_factory.mktemp("trained") / "model")


@pytest.fixture(scope="session")
def file(trained: Path) -> Path:
    return export_trained(trained, trained.parent / "model.onnx")


@pytest.fixture(scope="session")
def any_size(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A directory and its file, which takes any size and has a default size that is not square."""
    torch.manual_seed(0)
    folder = save_trained(tmp_path_factory.mktemp("any_size") / "model", "shvit_pico", (96, 64), crop_pct=1.0)
    return folder, export_trained(folder, folder.parent / "model.onnx", dynamic=("batch", "height", "width"))


@pytest.fixture(scope="session", params=[pytest.param(how, marks=pytest.mark.full) for how in RESIZES])
def detecting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directory of a detector that finds objects in any image, and its file."""
    folder = save_detecting(tmp_path_factory.mktemp(request.param) / "model", request.param)
    return folder, export_unchecked(folder, folder.parent / "model.onnx")


@pytest.fixture(scope="session", params=[pytest.param(how, marks=pytest.mark.full) for how in ("fit", "none")])
def segmenting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The directory of a segmenter that finds every class, and its file."""
    pytest.importorskip("segmentation_models_pytorch", reason="needs attnzoo[segmentation]")
    folder = save_segmenting(tmp_path_factory.mktemp(request.param) / "model", request.param)
    return folder, export_unchecked(folder, folder.parent / "model.onnx")


@pytest.fixture(scope="session")
def photograph() -> Image.Image:
    """A real photograph, wider than high."""
    data = pytest.importorskip("skimage.data", reason="needs attnzoo[train]")
    return Image.fromarray(data.chelsea())


@pytest.fixture(scope="session")
def noise() -> Image.Image:
    """A noise image, higher than wide, in which every pixel matters."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (97, 71, 3), np.uint8))
