"""Layers that the model families are built from. A token mixer maps (B, H, W, C) to (B, H, W, C) for any H, W.

Layers introduced by a single paper are also defined here and not in the file of its family, so that other families can
use them. The "Source" entry of a layer names the paper.
"""

# imported as plain `blocks` from the root of a clone, the package stays empty: it may shadow another package
if __name__ == "attnzoo.blocks":
    from .additive import AdditiveAttention
    from .agent import AgentAttention, resize_line
    from .attention import SelfAttention, attended
    from .attention_layers import AttentionLayer, attention_layer
    from .bottleneck import Bottleneck
    from .channel import ChannelAttention
    from .channel_gate import CrossStageChannelAttention, EfficientChannelAttention, FrequencyChannelAttention
    from .continuous_bias import ContinuousBias
    from .contmix import ContMix
    from .convolution import ConvNorm, NormLinear, ResidualConv, channels_last_conv, depthwise
    from .cpu import linear, pointwise_conv
    from .deformable import DeformableMerging
    from .deformable_gate import DeformableConv, DeformableGate
    from .downsample import ContextDownsample, ConvDownsample, InvertedDownsample, NormConv, PatchMerging
    from .efficient_attention import EfficientAttention
    from .fusing import fuse
    from .gated_attention import GatedAttention, RankAugmentedAttention
    from .gated_conv import GatedConv
    from .gaussian import GaussianAttention, GaussianBlock
    from .halo import HaloAttention
    from .head import AuxiliaryHead, BatchNormHead, DistilledHead, LayerNormHead, MlpHead
    from .head_tokens import HeadTokenAttention
    from .hilo import HiLoAttention
    from .large_kernel import LargeKernelAttention
    from .mixture_of_heads import AggregatedAttention, CosineAttention, HeadGates
    from .mlp import (
        AggregatingMlp,
        ConvNormMlp,
        GatedLocalMlp,
        LocalMlp,
        Mlp,
        ResponseMlp,
        ScaledLinear,
        ScaledMlp,
    )
    from .neighborhood import NeighborhoodAttention, resize_bias_table
    from .norm import Affine, ChannelsLastBatchNorm2d, GlobalResponseNorm, as_affine
    from .overlock import FocusBlock, ReparamConvBlock
    from .polarized import PolarizedAttention
    from .position import PositionEmbedding
    from .reparam import DilatedReparamConv
    from .residual import Residual, TransformerBlock
    from .resizing import at_least, at_most, has_size, multiple_of, pad_to, pool_cells, pool_to, resize
    from .robust import MaskedAttention, NormedMlp, TokenPooling, diversification_loss
    from .rolled_window import RolledWindowAttention
    from .routing import BiLevelRoutingAttention, LepeAttention
    from .single_head import SingleHeadAttention, SingleHeadBlock
    from .sparse_attention import MaskPredictor, SparseAttention
    from .spectral import SpectralFilter, resize_spectrum
    from .squeeze_excite import SqueezeExcite
    from .stem import ConvNormStem, ConvStem, PatchStem
    from .strips import StripAttention
    from .subsampled import SubsampledAttention
    from .subspaces import SubspaceAttention
    from .token_mixing import MixerGate, TokenMlp
    from .window import CrossShapedAttention, WindowAttention

    __all__ = [
        "AdditiveAttention",
        "Affine",
        "AgentAttention",
        "AggregatedAttention",
        "AggregatingMlp",
        "AttentionLayer",
        "AuxiliaryHead",
        "BatchNormHead",
        "BiLevelRoutingAttention",
        "Bottleneck",
        "ChannelAttention",
        "ChannelsLastBatchNorm2d",
        "ContMix",
        "ContextDownsample",
        "ContinuousBias",
        "ConvDownsample",
        "ConvNorm",
        "ConvNormMlp",
        "ConvNormStem",
        "ConvStem",
        "CosineAttention",
        "CrossShapedAttention",
        "CrossStageChannelAttention",
        "DeformableConv",
        "DeformableGate",
        "DeformableMerging",
        "DilatedReparamConv",
        "DistilledHead",
        "EfficientAttention",
        "EfficientChannelAttention",
        "FocusBlock",
        "FrequencyChannelAttention",
        "GatedAttention",
        "GatedConv",
        "GatedLocalMlp",
        "GaussianAttention",
        "GaussianBlock",
        "GlobalResponseNorm",
        "HaloAttention",
        "HeadGates",
        "HeadTokenAttention",
        "HiLoAttention",
        "InvertedDownsample",
        "LargeKernelAttention",
        "LayerNormHead",
        "LepeAttention",
        "LocalMlp",
        "MaskPredictor",
        "MaskedAttention",
        "MixerGate",
        "Mlp",
        "MlpHead",
        "NeighborhoodAttention",
        "NormConv",
        "NormLinear",
        "NormedMlp",
        "PatchMerging",
        "PatchStem",
        "PolarizedAttention",
        "PositionEmbedding",
        "RankAugmentedAttention",
        "ReparamConvBlock",
        "Residual",
        "ResidualConv",
        "ResponseMlp",
        "RolledWindowAttention",
        "ScaledLinear",
        "ScaledMlp",
        "SelfAttention",
        "SingleHeadAttention",
        "SingleHeadBlock",
        "SparseAttention",
        "SpectralFilter",
        "SqueezeExcite",
        "StripAttention",
        "SubsampledAttention",
        "SubspaceAttention",
        "TokenMlp",
        "TokenPooling",
        "TransformerBlock",
        "WindowAttention",
        "as_affine",
        "at_least",
        "at_most",
        "attended",
        "attention_layer",
        "channels_last_conv",
        "depthwise",
        "diversification_loss",
        "fuse",
        "has_size",
        "linear",
        "multiple_of",
        "pad_to",
        "pointwise_conv",
        "pool_cells",
        "pool_to",
        "resize",
        "resize_bias_table",
        "resize_line",
        "resize_spectrum",
    ]
