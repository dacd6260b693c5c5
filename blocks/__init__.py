"""The layers that families are assembled from. A token mixer maps (B, H, W, C) to (B, H, W, C), for any H, W."""

from .convolution import ChannelsLastConv2d, ConvNorm, ConvNormMlp, FastMemoryFormat, ResidualConv, depthwise
from .downsample import ConvDownsample, InvertedDownsample, PatchMerging
from .fusing import fuse
from .head import BatchNormHead
from .neighborhood import NeighborhoodAttention, resize_bias_table
from .residual import TransformerBlock
from .single_head import SingleHeadAttention, SingleHeadBlock
from .stem import ConvStem, PatchStem

__all__ = [
    "BatchNormHead",
    "ChannelsLastConv2d",
    "ConvDownsample",
    "ConvNorm",
    "ConvNormMlp",
    "ConvStem",
    "FastMemoryFormat",
    "InvertedDownsample",
    "NeighborhoodAttention",
    "PatchMerging",
    "PatchStem",
    "ResidualConv",
    "SingleHeadAttention",
    "SingleHeadBlock",
    "TransformerBlock",
    "depthwise",
    "fuse",
    "resize_bias_table",
]
