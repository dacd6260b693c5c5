"""The layers that families are assembled from. A token mixer maps (B, H, W, C) to (B, H, W, C), for any H, W."""

from .agent import AgentAttention, resize_line
from .convolution import (
    ChannelsLastBatchNorm2d,
    ChannelsLastConv2d,
    ConvNorm,
    ConvNormMlp,
    ResidualConv,
    as_affine,
    depthwise,
)
from .downsample import ConvDownsample, InvertedDownsample, PatchMerging
from .fusing import fuse
from .head import BatchNormHead
from .linear import Linear, Mlp, PointwiseConv2d
from .neighborhood import NeighborhoodAttention, resize_bias_table
from .position import PositionEmbedding
from .residual import TransformerBlock
from .routing import BiLevelRoutingAttention, LepeAttention
from .single_head import SingleHeadAttention, SingleHeadBlock
from .stem import ConvNormStem, ConvStem, PatchStem
from .window import CrossShapedAttention, WindowAttention

__all__ = [
    "AgentAttention",
    "BatchNormHead",
    "BiLevelRoutingAttention",
    "ChannelsLastBatchNorm2d",
    "ChannelsLastConv2d",
    "ConvDownsample",
    "ConvNorm",
    "ConvNormMlp",
    "ConvNormStem",
    "ConvStem",
    "CrossShapedAttention",
    "InvertedDownsample",
    "LepeAttention",
    "Linear",
    "Mlp",
    "NeighborhoodAttention",
    "PatchMerging",
    "PatchStem",
    "PointwiseConv2d",
    "PositionEmbedding",
    "ResidualConv",
    "SingleHeadAttention",
    "SingleHeadBlock",
    "TransformerBlock",
    "WindowAttention",
    "as_affine",
    "depthwise",
    "fuse",
    "resize_bias_table",
    "resize_line",
]
