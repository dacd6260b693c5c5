"""The layers that families are assembled from. A token mixer maps (B, H, W, C) to (B, H, W, C), for any H, W."""

from .convolution import ChannelsLastBatchNorm2d, ChannelsLastConv2d, ConvNorm, ResidualConv, depthwise
from .downsample import ConvDownsample, PatchMerging
from .fusing import fuse
from .lean import LeanMlp
from .neighborhood import NeighborhoodAttention, resize_bias_table
from .residual import TransformerBlock
from .routing import BiLevelRoutingAttention, LepeAttention
from .stem import ConvNormStem, ConvStem, PatchStem

__all__ = [
    "BiLevelRoutingAttention",
    "ChannelsLastBatchNorm2d",
    "ChannelsLastConv2d",
    "ConvDownsample",
    "ConvNorm",
    "ConvNormStem",
    "ConvStem",
    "LeanMlp",
    "LepeAttention",
    "NeighborhoodAttention",
    "PatchMerging",
    "PatchStem",
    "ResidualConv",
    "TransformerBlock",
    "depthwise",
    "fuse",
    "resize_bias_table",
]
