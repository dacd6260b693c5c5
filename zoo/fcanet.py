"""FcaNet: timm's ResNet with channel attention over frequencies at the end of every block.

Paper: FcaNet: Frequency Channel Attention Networks, arXiv 2012.11879. Official code: cfzd/FcaNet, MIT licence.

What the official code does that the paper does not say: frequencies are those of a 7x7 grid, scaled to the map of the
stage at 224; maps of other sizes are averaged in as many cells. The filters are in the released files, and are computed
here.

Another attention layer takes its place with `attn_layer`, see `attnzoo.blocks.attention_layer`.

Shapes at 224 (fcanet50): image 3x224x224, stem 64x56x56, stages 256x56x56, 512x28x28, 1024x14x14, 2048x7x7.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from attnzoo.blocks import attention_layer

from .base import AttentionResNet, Family, Renames, Variant, filter_by, renamed

__all__ = ["FcaNet"]


class FcaNet(AttentionResNet):
    """timm's ResNet with frequency channel attention, or with another layer. Args: see `AttentionResNet`."""


# Patterns of official parameter names, with ours.
_RENAMES: Renames = ((r"\.att\.fc\.0\.", ".se.fc1."), (r"\.att\.fc\.2\.", ".se.fc2."))

rename = partial(renamed, renames=_RENAMES)
checkpoint_filter_fn = filter_by(rename, (".att.dct_layer.weight",))

_WEIGHTS = "https://github.com/cfzd/FcaNet/releases/download/v1.0"
# sides of the stages' maps at 224
_STAGES = [attention_layer("fca", size=size) for size in (56, 28, 14, 7)]

family = Family(
    __name__,
    FcaNet,
    checkpoint_filter_fn,
    code="https://github.com/cfzd/FcaNet",
    paper="2012.11879",
    license="mit",
    first_conv="conv1",
    source="#classification-models-on-imagenet",
    cfg={"classifier": "fc", "interpolation": "bilinear"},
)


def _fca(depth: int, top1: float, layers: Sequence[int], block: str = "bottleneck") -> Variant:
    summary = f"A ResNet-{depth} with frequency channel attention, with the official weights."
    url = f"{_WEIGHTS}/fca{depth}.pth"
    return family.variant(summary, url, (top1, None, None), block=block, layers=layers, attn_layer=_STAGES)


family.register(
    {
        "fcanet_pico": family.pico(
            block="basic",
            layers=(2, 2, 2, 2),
            channels=(16, 32, 64, 128),
            attn_layer=_STAGES,
        ),
        "fcanet34": _fca(34, 75.07, (3, 4, 6, 3), "basic"),
        "fcanet50": _fca(50, 78.52, (3, 4, 6, 3)),
        "fcanet101": _fca(101, 79.64, (3, 4, 23, 3)),
        "fcanet152": _fca(152, 80.08, (3, 8, 36, 3)),
    }
)
