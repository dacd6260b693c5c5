"""Handwritten digits of scikit-learn, for the examples of this folder."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset


def open_digits(side: int = 32) -> tuple[TensorDataset, TensorDataset]:
    """Returns 1500 images for training and 297 for validation: (3, side, side), mean 0, and the digit."""
    digits = load_digits()
    images = torch.from_numpy(digits.images).float().unsqueeze(1).expand(-1, 3, -1, -1)
    images = torch.nn.functional.interpolate(images, (side, side), mode="bilinear")
    images = (images - images.mean()) / images.std()
    labels = torch.from_numpy(digits.target)
    return TensorDataset(images[:1500], labels[:1500]), TensorDataset(images[1500:], labels[1500:])
