"""The layers that families are assembled from. A token mixer maps (B, H, W, C) to (B, H, W, C), for any H, W."""

from .contmix import ContMix, resize
from .convolution import ChannelsLastConv2d, ConvNorm, NormLinear, ResidualConv, depthwise
from .downsample import ContextDownsample, ConvDownsample, PatchMerging
from .focus import FocusBlock, ReparamConvBlock
from .fusing import fuse
from .heads import AuxiliaryHead
from .neighborhood import NeighborhoodAttention, resize_bias_table
from .reparam import DilatedReparamConv
from .residual import TransformerBlock
from .response import GlobalResponseNorm, ResponseMlp, SqueezeExcite
from .stem import ConvNormStem, ConvStem, PatchStem

__all__ = [
    "AuxiliaryHead",
    "ChannelsLastConv2d",
    "ContMix",
    "ContextDownsample",
    "ConvDownsample",
    "ConvNorm",
    "ConvNormStem",
    "ConvStem",
    "DilatedReparamConv",
    "FocusBlock",
    "GlobalResponseNorm",
    "NeighborhoodAttention",
    "NormLinear",
    "PatchMerging",
    "PatchStem",
    "ReparamConvBlock",
    "ResidualConv",
    "ResponseMlp",
    "SqueezeExcite",
    "TransformerBlock",
    "depthwise",
    "fuse",
    "resize",
    "resize_bias_table",
]
