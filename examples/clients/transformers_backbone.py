"""Uses a network as a backbone in transformers: pip install transformers.

Example: python examples/clients/transformers_backbone.py nat_pico
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor
from transformers import TimmBackbone, TimmBackboneConfig

import attnzoo  # noqa: F401  registers the models


def maps(name: str, images: Tensor) -> tuple[Tensor, ...]:
    """Returns the maps of all stages of a network that timm knows, with random weights, for images (B, 3, H, W)."""
    config = TimmBackboneConfig(backbone=name, use_pretrained_backbone=False, out_indices=[0, 1, 2, 3])
    with torch.no_grad():
        return TimmBackbone(config).eval()(images).feature_maps


if __name__ == "__main__":
    for found in maps(sys.argv[1] if len(sys.argv) > 1 else "nat_pico", torch.randn(1, 3, 224, 224)):
        print(tuple(found.shape))
