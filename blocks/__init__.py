"""The layers that families are assembled from. A token mixer maps (B, H, W, C) to (B, H, W, C), for any H, W."""

from .agent import AgentAttention, resize_line
from .attention import SelfAttention, attended
from .contmix import ContMix
from .convolution import (
    ChannelsLastBatchNorm2d,
    ChannelsLastConv2d,
    ConvNorm,
    ConvNormMlp,
    NormLinear,
    ResidualConv,
    as_affine,
    depthwise,
)
from .downsample import ContextDownsample, ConvDownsample, InvertedDownsample, PatchMerging
from .focus import FocusBlock, ReparamConvBlock
from .fusing import fuse
from .head import AuxiliaryHead, BatchNormHead
from .linear import Linear, Mlp, PointwiseConv2d
from .neighborhood import NeighborhoodAttention, resize_bias_table
from .position import PositionEmbedding
from .reparam import DilatedReparamConv
from .residual import TransformerBlock
from .response import GlobalResponseNorm, ResponseMlp, SqueezeExcite
from .routing import BiLevelRoutingAttention, LepeAttention
from .single_head import SingleHeadAttention, SingleHeadBlock
from .sizes import at_least, at_most, has_size, multiple_of, pad_to, pool_cells, pool_to, resize
from .stem import ConvNormStem, ConvStem, PatchStem
from .window import CrossShapedAttention, WindowAttention

__all__ = [
    "AgentAttention",
    "AuxiliaryHead",
    "BatchNormHead",
    "BiLevelRoutingAttention",
    "ChannelsLastBatchNorm2d",
    "ChannelsLastConv2d",
    "ContMix",
    "ContextDownsample",
    "ConvDownsample",
    "ConvNorm",
    "ConvNormMlp",
    "ConvNormStem",
    "ConvStem",
    "CrossShapedAttention",
    "DilatedReparamConv",
    "FocusBlock",
    "GlobalResponseNorm",
    "InvertedDownsample",
    "LepeAttention",
    "Linear",
    "Mlp",
    "NeighborhoodAttention",
    "NormLinear",
    "PatchMerging",
    "PatchStem",
    "PointwiseConv2d",
    "PositionEmbedding",
    "ReparamConvBlock",
    "ResidualConv",
    "ResponseMlp",
    "SelfAttention",
    "SingleHeadAttention",
    "SingleHeadBlock",
    "SqueezeExcite",
    "TransformerBlock",
    "WindowAttention",
    "as_affine",
    "at_least",
    "at_most",
    "attended",
    "depthwise",
    "fuse",
    "has_size",
    "multiple_of",
    "pad_to",
    "pool_cells",
    "pool_to",
    "resize",
    "resize_bias_table",
    "resize_line",
]
