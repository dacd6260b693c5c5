"""TAP-RVT: a robust vision transformer that pools tokens before attention, trained with diverse attention.

Paper: Robustifying Token Attention for Vision Transformers, arXiv 2303.11126. Official code: guoyongcs/TAPADL, MIT
licence.

What the official code does that the paper does not say: the token itself is the first of four scales; the shortcut of
attention is the token before pooling; the first blocks have a learned mask of attention, on maps of 14x14 only. Here
masks are interpolated to other maps, and images are padded with zeros to multiples of 16.

Shapes at 224 (tap_rvt_tiny_plus): image 3x224x224, stem 14x14x192, stages 14x14x192, 14x14x192, 7x7x384. The blocks of
one map size form two stages in the tiny network and three in the others.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import re
from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from timm.layers import register_notrace_module, to_2tuple
from torch import Tensor, nn

from attnzoo.blocks import (
    ConvNorm,
    LayerNormHead,
    MaskedAttention,
    NormedMlp,
    TokenPooling,
    TransformerBlock,
    diversification_loss,
    multiple_of,
    pad_to,
)

from .base import Family, Pyramid, Renames, block_of, depths_of, like, renamed, stages_of, unwrapped

__all__ = ["TokenPoolingTransformer"]


class TokenPoolingTransformer(Pyramid):
    """Blocks of token pooling, attention and convolutional MLPs on maps of stride 16, and maybe 32.

    Args:
        head_dim: channels per head.
        num_heads: heads per stage; the map of a stage with more heads than the one before has half its sides.
        depths: blocks per stage.
        masked_blocks: number of blocks, from the first, whose attention has a mask; they lie before any reduction.
        num_scales: scales of token pooling.
        img_size: image size that masks are learned at, one number or (rows, columns).
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = (".mask.table",)

    def __init__(
        self,
        head_dim: int = 64,
        num_heads: Sequence[int] = (6, 6, 6),
        depths: Sequence[int] = (4, 4, 4),
        masked_blocks: int = 5,
        num_scales: int = 4,
        img_size: int | tuple[int, int] = 224,
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        rows, columns = to_2tuple(img_size)
        map_size = -(-rows // 16), -(-columns // 16)
        widths = [head_dim * heads for heads in num_heads]

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim = widths[stage]
            is_masked = sum(depths[:stage]) + index < masked_blocks
            mixer = MaskedAttention(dim, num_heads[stage], map_size if is_masked else None, qkv_bias, proj_drop_rate)
            return PooledBlock(dim, mixer, num_scales, NormedMlp(dim, int(dim * mlp_ratio), proj_drop_rate), drop_path)

        def reduction(stage: int) -> nn.Module:
            is_same = widths[stage] == widths[stage - 1]
            return nn.Identity() if is_same else Reduction(widths[stage - 1], widths[stage])

        halvings = accumulate(int(i > 0 and widths[i] != widths[i - 1]) for i in range(len(widths)))
        super().__init__(
            PaddedStem(in_chans, widths[0]),
            stages_of(depths, drop_path_rate, block, reduction),
            widths=widths,
            reductions=[16 * 2**count for count in halvings],
            norm=nn.Identity(),
            head_layer=partial(LayerNormHead, eps=1e-6),
            in_chans=in_chans,
            **head,
        )

    @torch.jit.ignore
    def with_diversification(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (B, in_chans, H, W) -> logits (B, num_classes), and the attention diversification loss, a scalar.

        The authors add this loss to that of the logits in training. It is the mean over all blocks.
        """
        x, losses = self.stem(x), []
        stage: Any
        for stage in self.stages:
            x = stage.downsample(x)
            for block in stage.blocks:
                x, weights = block.with_weights(x)
                losses.append(diversification_loss(weights))
        return self.forward_head(self._finish(x)), torch.stack(losses).mean()


class PooledBlock(TransformerBlock):
    """x + mixer(norm(pool(x))), then x + mlp(norm(x)): (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels C.
        mixer: attention over the map.
        num_scales: scales of token pooling.
        mlp: the MLP.
        drop_path: probability that a sample skips a branch in training.
    """

    def __init__(
        self, dim: int, mixer: MaskedAttention, num_scales: int, mlp: nn.Module, drop_path: float = 0.0
    ) -> None:
        super().__init__(dim, mixer, drop_path=drop_path, norm_layer=partial(nn.LayerNorm, eps=1e-6), mlp=mlp)
        self.pool = TokenPooling(dim, num_scales)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        mixer = self.attn
        assert mixer is not None
        x = x + self.drop_path1(mixer(self.norm1(self.pool(x))))
        return x + self.drop_path2(self.mlp(self.norm2(x)))

    @torch.jit.unused
    def with_weights(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H, W, C) -> the output of the block, and the weights of its attention (B, h, H * W, H * W)."""
        assert isinstance(self.attn, MaskedAttention)
        out, weights = self.attn.with_weights(self.norm1(self.pool(x)))
        x = x + self.drop_path1(out)
        return x + self.drop_path2(self.mlp(self.norm2(x))), weights


@register_notrace_module  # whether to pad depends on the size of the image
class PaddedStem(nn.Module):
    """7x7 convolution of stride 2, batch norm, max pooling, patches of 4x4: (B, P, H, W) -> (B, ⌈H/16⌉, ⌈W/16⌉, C).

    Args:
        in_chans: channels P of the image.
        dim: channels C.
        hidden_dim: channels after the first convolution.
    """

    def __init__(self, in_chans: int, dim: int, hidden_dim: int = 32) -> None:
        super().__init__()
        self.conv = ConvNorm(in_chans, hidden_dim, 7, 2, bias=True, padding=2, channels_last=False)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.proj = nn.Conv2d(hidden_dim, dim, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, H, W) -> (B, ⌈H/16⌉, ⌈W/16⌉, C)."""
        x = pad_to(x, multiple_of(x.shape[2], 16), multiple_of(x.shape[3], 16), channels_last=False)
        return self.proj(self.pool(self.conv(x))).permute(0, 2, 3, 1).contiguous()


class Reduction(nn.Module):
    """A 3x3 convolution of stride 2 in groups of one input channel: (B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim).

    Args:
        dim: input channels C.
        out_dim: output channels, a multiple of C.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out_dim, 3, stride=2, padding=1, groups=dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, ⌈H/2⌉, ⌈W/2⌉, out_dim)."""
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts an official checkpoint, or one of this project, to this project's names."""
    ours, depths = model.state_dict(), depths_of(model)
    # the stages that begin with a smaller map, and the number of blocks before each
    reduced = [i for i, stage in enumerate(getattr(model, "stages", ())) if isinstance(stage.downsample, Reduction)]
    firsts = [0, *(sum(depths[:i]) for i in reduced)]

    ends = [*firsts[1:], sum(depths)]

    # what the model does not have keeps its name, which loading reports
    def rename(name: str) -> str:
        name = renamed(name, _RENAMES)
        block = re.match(r"transformers\.(\d+)\.blocks\.(\d+)\.", name)
        if block is not None and int(block[1]) < len(firsts):
            index = firsts[int(block[1])] + int(block[2])
            if index < ends[int(block[1])]:
                return f"{block_of(index, depths)}.{name[block.end() :]}"
        pool = re.match(r"pools\.(\d+)\.", name)
        if pool is not None and int(pool[1]) < len(reduced):
            return f"stages.{reduced[int(pool[1])]}.downsample.{name[pool.end() :]}"
        return name

    weights = {rename(name): tensor for name, tensor in unwrapped(state_dict).items()}
    return {name: like(tensor, ours.get(name)) for name, tensor in weights.items()}


# Patterns of official parameter names, with our names.
_RENAMES: Renames = (
    (r"^patch_embed\.proj\.0\.", "stem.conv.conv."),
    (r"^patch_embed\.proj\.1\.", "stem.conv.norm."),
    (r"^patch_embed\.proj\.3\.", "stem.proj."),
    (r"\.attn\.att_mask$", ".attn.mask.table"),
    (r"\.dilation_predictor\.proj\.0\.", ".pool.conv1.conv."),
    (r"\.dilation_predictor\.proj\.1\.", ".pool.conv1.norm."),
    (r"\.dilation_predictor\.proj\.2\.", ".pool.conv2."),
    (r"\.mlp\.fc1\.", ".mlp.conv1.conv."),
    (r"\.mlp\.dwconv\.", ".mlp.conv2.conv."),
    (r"\.mlp\.fc2\.", ".mlp.conv3.conv."),
    (r"\.mlp\.bn(\d)\.", r".mlp.conv\1.norm."),
    (r"^norm\.", "head.norm."),
    (r"^head\.(weight|bias)$", r"head.fc.\1"),
)

family = Family(
    __name__,
    TokenPoolingTransformer,
    checkpoint_filter_fn,
    code="https://github.com/guoyongcs/TAPADL",
    paper="2303.11126",
    license="mit",
    first_conv="stem.conv.conv",
    source="/blob/main/TAPADL_RVT/README.md",
    cfg={"pool_size": (14, 14)},
)

family.register(
    {
        "tap_rvt_pico": family.pico(
            head_dim=16, num_heads=(3, 3, 6), depths=(1, 2, 1), masked_blocks=2, img_size=64, cfg={"pool_size": (7, 7)}
        ),
        "tap_rvt_tiny_plus": family.variant(
            "TAP-RVT-Tiny with masks. Its weights are not published.",
            head_dim=32,
            num_heads=(6, 6, 12),
            depths=(5, 5, 2),
            masked_blocks=10,
            cfg={"pool_size": (7, 7)},
        ),
        "tap_rvt_small_plus": family.variant("TAP-RVT-Small with masks. Its weights are not published."),
        "tap_rvt_base_plus": family.variant(
            "TAP-RVT-Base with masks, with the official weights.",
            "https://github.com/guoyongcs/TAPADL/releases/download/v1.0/tapadl_rvt_base.pth.tar",
            (83.1, 92.1, None),
            num_heads=(12, 12, 12),
        ),
    }
)
