"""Trains a decoder of segmentation_models_pytorch to find the pixels of digits.

Install: pip install segmentation-models-pytorch scikit-learn
Example: python examples/clients/segmentation_decoder.py nat_pico UPerNet
"""

from __future__ import annotations

import sys

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from digits import open_digits
from torch import Tensor
from torch.utils.data import DataLoader

import attnzoo  # noqa: F401  registers the models


def masks_of(images: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 1, H, W), 1 where a pixel belongs to the digit."""
    return (images[:, :1] > 0).float()


def train(name: str, decoder: str = "UPerNet", steps: int = 24) -> float:
    """Trains a decoder on a network that timm knows, and returns the intersection over union."""
    training, validation = open_digits(side=64)
    model = smp.create_model(decoder, encoder_name=f"tu-{name}", encoder_weights=None, classes=1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step, (images, _) in enumerate(DataLoader(training, 16, shuffle=True)):
        if step == steps:
            break
        loss = F.binary_cross_entropy_with_logits(model(images), masks_of(images))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images = validation.tensors[0][:64]
    with torch.no_grad():
        found, wanted = model.eval()(images) > 0, masks_of(images) > 0
    return ((found & wanted).sum() / (found | wanted).sum()).item()


if __name__ == "__main__":
    print(f"intersection over union {train(*sys.argv[1:3] or ['nat_pico']):.3f}")
