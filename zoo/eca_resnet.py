"""ECA-Net: timm's ResNet with efficient channel attention at the end of every block.

Paper: ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks, arXiv 1910.03151. Official code:
BangguWu/ECANet, MIT licence.

What the official code does that the paper does not say: the released weights have kernel sizes per stage that differ
from those of the paper's equation. Parameters are published in units of 2^20.

Another attention layer takes its place with `attn_layer`, by a name that `attnzoo.blocks.attention_layer` knows:
`timm.create_model("eca_resnet50", attn_layer="psa_s")` is a ResNet-50 with polarized self-attention.

Shapes at 224 (eca_resnet50): image 3x224x224, stem 64x56x56, stages 256x56x56, 512x28x28, 1024x14x14, 2048x7x7.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from attnzoo.blocks import AttentionLayer, attention_layer

from .base import AttentionResNet, Family, Renames, Variant, filter_by, renamed

__all__ = ["ECAResNet"]


class ECAResNet(AttentionResNet):
    """timm's ResNet with efficient channel attention, or with another attention layer. Args: see `AttentionResNet`."""


# Patterns of official parameter names, with timm's.
_RENAMES: Renames = ((r"\.eca\.conv\.", ".se.conv."),)

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename)

family = Family(
    __name__,
    ECAResNet,
    checkpoint_filter_fn,
    code="https://github.com/BangguWu/ECANet",
    paper="1910.03151",
    license="mit",
    first_conv="conv1",
    source="#imagenet",
    cfg={"classifier": "fc", "interpolation": "bilinear"},
)


def _neighbors(*sizes: int) -> list[AttentionLayer]:
    """Returns the attention layers of four stages, from the number of neighboring channels in each."""
    return [attention_layer("eca", kernel_size=size) for size in sizes]


def _eca(
    depth: int, file: str, published: tuple[float, float, float], layers: Sequence[int], block: str, *sizes: int
) -> Variant:
    """Returns a variant, from the published accuracy, parameters in 2^20 and multiply-adds in 10^9."""
    url = f"https://drive.usercontent.google.com/download?id={file}&export=download&confirm=t"
    summary = f"A ResNet-{depth} with efficient channel attention, with the official weights."
    top1, mebi, gflops = published
    arguments: dict[str, Any] = {"block": block, "layers": layers, "attn_layer": _neighbors(*sizes)}
    return family.variant(summary, url, (top1, round(mebi * 2**20 / 1e6, 2), gflops), **arguments)


family.register(
    {
        "eca_resnet_pico": family.pico(
            block="basic",
            layers=(2, 2, 2, 2),
            channels=(16, 32, 64, 128),
            attn_layer="eca",
        ),
        "eca_resnet18": _eca(
            18, "1LMRFRTyzVifGBi2MUpTuYEWW44S8mwyl", (70.92, 11.15, 1.70), (2, 2, 2, 2), "basic", 3, 5, 7, 7
        ),
        "eca_resnet34": _eca(
            34, "15LV5Jkea3GPzvLP5__H7Gg88oNQUxBDE", (74.21, 20.79, 3.43), (3, 4, 6, 3), "basic", 3, 3, 5, 7
        ),
        "eca_resnet50": _eca(
            50, "1670rce333c_lyMWFzBlNZoVUvtxbCF_U", (77.42, 24.37, 3.86), (3, 4, 6, 3), "bottleneck", 3, 5, 5, 7
        ),
        "eca_resnet101": _eca(
            101, "1b5FQ8yDFnZ_UhvWT9txmjI_LjbKkgnvC", (78.65, 42.49, 7.35), (3, 4, 23, 3), "bottleneck", 3, 3, 5, 7
        ),
        "eca_resnet152": _eca(
            152, "1_bYnaOg9ptsILC_iC7uQ5Izv-u2rjYG5", (78.92, 57.41, 10.83), (3, 8, 36, 3), "bottleneck", 3, 3, 5, 7
        ),
    }
)
