"""Layers that the model families are built from. A token mixer maps (B, H, W, C) to (B, H, W, C) for any H, W.

Layers introduced by a single paper are also defined here and not in the file of its family, so that other families can
use them. The "Source" entry of a layer names the paper.
"""

# imported as plain `blocks` from the root of a clone, the package stays empty: it may shadow another package
if __name__ == "attnzoo.blocks":
    from .adaptive_spectral import AdaptiveSpectralFilter
    from .additive import AdditiveAttention
    from .agent import AgentAttention, resize_line
    from .aggregation import CrossStage, LayerAggregation, ResidualConvs
    from .area import AreaAttention
    from .attention import MapAttention, SelfAttention, attended
    from .attention_layers import AttentionLayer, attention_layer
    from .bottleneck import Bottleneck
    from .channel import ChannelAttention
    from .channel_gate import CrossStageChannelAttention, EfficientChannelAttention, FrequencyChannelAttention
    from .class_attention import ClassAttention, ClassAttentionBlock
    from .continuous_bias import ContinuousBias
    from .contmix import ContMix
    from .convolution import ConvNorm, ConvNormAct, NormLinear, ResidualConv, channels_last_conv, depthwise
    from .convolutional_attention import ConvolutionalAttention
    from .cpu import linear, pointwise_conv
    from .cross_attention import CrossAttention, CrossBlock, QueryHead
    from .deformable import DeformableMerging
    from .deformable_gate import DeformableConv, DeformableGate
    from .downsample import ContextDownsample, ConvDownsample, InvertedDownsample, NormConv, PatchMerging
    from .efficient_attention import EfficientAttention
    from .flow_attention import FlowAttention, FlowCrossAttention, causal_flow_attended, flow_attended
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
        GatedMlp,
        LocalMlp,
        Mlp,
        ResponseMlp,
        ScaledLinear,
        ScaledMlp,
    )
    from .multi_head_scan import MultiHeadScan
    from .neighborhood import NeighborhoodAttention, resize_bias_table
    from .norm import Affine, CenteredNorm, ChannelsLastBatchNorm2d, GlobalResponseNorm, as_affine
    from .overlock import FocusBlock, ReparamConvBlock
    from .oversized import GatedOversizedConv, OversizedConv
    from .polarized import PolarizedAttention
    from .position import PositionEmbedding
    from .position_tokens import FourierTokens, LearnedTokens, PooledConv, fourier_positions
    from .quantizable_attention import AttentionGate, QuantizableAttention, clipped_softmax, make_quantizable
    from .reparam import DilatedReparamConv
    from .residual import Residual, TransformerBlock
    from .residual_attention import AttentionModule, PreactBottleneck
    from .resizing import at_least, at_most, has_size, multiple_of, pad_to, pool_cells, pool_to, resize
    from .robust import MaskedAttention, NormedMlp, TokenPooling, diversification_loss
    from .rolled_window import RolledWindowAttention
    from .routing import BiLevelRoutingAttention, LepeAttention
    from .selective_scan import ContinuousScan
    from .sigma_reparam import SigmaReparam, fold_reparametrization, reparametrize
    from .single_head import SingleHeadAttention, SingleHeadBlock
    from .sparse_attention import MaskPredictor, SparseAttention
    from .spectral import FilterBlock, SpectralFilter, resize_spectrum
    from .squeeze_excite import SqueezeExcite
    from .stem import ConvNormStem, ConvStem, PatchStem
    from .strips import StripAttention
    from .subsampled import SubsampledAttention
    from .subspaces import SubspaceAttention
    from .token_mixing import MixerGate, TokenMlp
    from .window import CrossShapedAttention, WindowAttention

    __all__ = [
        "AdaptiveSpectralFilter",
        "AdditiveAttention",
        "Affine",
        "AgentAttention",
        "AggregatedAttention",
        "AggregatingMlp",
        "AreaAttention",
        "AttentionGate",
        "AttentionLayer",
        "AttentionModule",
        "AuxiliaryHead",
        "BatchNormHead",
        "BiLevelRoutingAttention",
        "Bottleneck",
        "CenteredNorm",
        "ChannelAttention",
        "ChannelsLastBatchNorm2d",
        "ClassAttention",
        "ClassAttentionBlock",
        "ContMix",
        "ContextDownsample",
        "ContinuousBias",
        "ContinuousScan",
        "ConvDownsample",
        "ConvNorm",
        "ConvNormAct",
        "ConvNormMlp",
        "ConvNormStem",
        "ConvStem",
        "ConvolutionalAttention",
        "CosineAttention",
        "CrossAttention",
        "CrossBlock",
        "CrossShapedAttention",
        "CrossStage",
        "CrossStageChannelAttention",
        "DeformableConv",
        "DeformableGate",
        "DeformableMerging",
        "DilatedReparamConv",
        "DistilledHead",
        "EfficientAttention",
        "EfficientChannelAttention",
        "FilterBlock",
        "FlowAttention",
        "FlowCrossAttention",
        "FocusBlock",
        "FourierTokens",
        "FrequencyChannelAttention",
        "GatedAttention",
        "GatedConv",
        "GatedLocalMlp",
        "GatedMlp",
        "GatedOversizedConv",
        "GaussianAttention",
        "GaussianBlock",
        "GlobalResponseNorm",
        "HaloAttention",
        "HeadGates",
        "HeadTokenAttention",
        "HiLoAttention",
        "InvertedDownsample",
        "LargeKernelAttention",
        "LayerAggregation",
        "LayerNormHead",
        "LearnedTokens",
        "LepeAttention",
        "LocalMlp",
        "MapAttention",
        "MaskPredictor",
        "MaskedAttention",
        "MixerGate",
        "Mlp",
        "MlpHead",
        "MultiHeadScan",
        "NeighborhoodAttention",
        "NormConv",
        "NormLinear",
        "NormedMlp",
        "OversizedConv",
        "PatchMerging",
        "PatchStem",
        "PolarizedAttention",
        "PooledConv",
        "PositionEmbedding",
        "PreactBottleneck",
        "QuantizableAttention",
        "QueryHead",
        "RankAugmentedAttention",
        "ReparamConvBlock",
        "Residual",
        "ResidualConv",
        "ResidualConvs",
        "ResponseMlp",
        "RolledWindowAttention",
        "ScaledLinear",
        "ScaledMlp",
        "SelfAttention",
        "SigmaReparam",
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
        "causal_flow_attended",
        "channels_last_conv",
        "clipped_softmax",
        "depthwise",
        "diversification_loss",
        "flow_attended",
        "fold_reparametrization",
        "fourier_positions",
        "fuse",
        "has_size",
        "linear",
        "make_quantizable",
        "multiple_of",
        "pad_to",
        "pointwise_conv",
        "pool_cells",
        "pool_to",
        "reparametrize",
        "resize",
        "resize_bias_table",
        "resize_line",
        "resize_spectrum",
    ]
