"""The layers that families are assembled from. A token mixer maps (B, H, W, C) to (B, H, W, C), for any H, W."""

from .downsample import ConvDownsample, PatchMerging
from .neighborhood import NeighborhoodAttention, resize_bias_table
from .residual import TransformerBlock
from .stem import ConvStem, PatchStem

__all__ = [
    "ConvDownsample",
    "ConvStem",
    "NeighborhoodAttention",
    "PatchMerging",
    "PatchStem",
    "TransformerBlock",
    "resize_bias_table",
]
