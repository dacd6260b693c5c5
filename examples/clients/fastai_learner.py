"""Trains a network on digits with fastai: pip install fastai scikit-learn.

Example: python examples/clients/fastai_learner.py nat_pico
"""

from __future__ import annotations

import sys

import torch
from digits import open_digits
from fastai.vision.all import CrossEntropyLossFlat, DataLoaders, accuracy, vision_learner

import attnzoo  # noqa: F401  registers the models


def train(name: str, epochs: int = 3) -> float:
    """Trains a network that timm knows, and returns its accuracy."""
    loaders = DataLoaders.from_dsets(*open_digits(), bs=64, num_workers=0, device=torch.device("cpu"))
    # without a size of the pooled map, fastai lets the network pool, whose maps may be (B, H, W, C)
    learner = vision_learner(
        loaders, name, pretrained=False, normalize=False, n_out=10, loss_func=CrossEntropyLossFlat(), metrics=accuracy,
        pretrained_cfg_overlay={"pool_size": None},
    )  # fmt: skip
    with learner.no_bar(), learner.no_logging():
        learner.fit_one_cycle(epochs, 3e-3)
        return learner.validate()[1]


if __name__ == "__main__":
    print(f"accuracy {train(sys.argv[1] if len(sys.argv) > 1 else 'nat_pico'):.1%}")
