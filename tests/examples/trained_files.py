"""Directories as `attnzoo train` writes them and files as `attnzoo export` does, of random weights."""

from __future__ import annotations

from pathlib import Path

import timm
import timm.models
import torch

import attnzoo  # noqa: F401  registers the models
from attnzoo.tools.export import export_onnx
from attnzoo.tools.opening import open_model

EXAMPLES = Path(__file__).parents[2] / "examples"
LABELS = ["ant", "bee", "cat", "dog", "elk"]


def save_trained(folder: Path, name: str = "nat_pico", size: tuple[int, int] = (64, 64), **config: object) -> Path:
    """A directory in timm's layout, whose model tells pictures apart."""
    overlay = {"input_size": (3, *size), **config}
    model = timm.create_model(name, num_classes=len(LABELS), pretrained_cfg_overlay=overlay)
    with torch.no_grad():
        # an untrained head gives all classes about the same probability
        for parameter in model.get_classifier().parameters():
            parameter.normal_(std=0.3)
    timm.models.save_for_hf(model, str(folder), {"label_names": LABELS}, safe_serialization=True)
    return folder


def export_trained(folder: Path, output: Path, **options: object) -> Path:
    """What `attnzoo export FOLDER --output OUTPUT` writes."""
    model, origin = open_model(str(folder))
    return export_onnx(model, output, metadata=origin, **options).path
