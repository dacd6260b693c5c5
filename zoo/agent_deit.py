"""Agent-DeiT: a plain vision transformer with a class token, whose attention goes through agents.

Paper: Agent Attention: On the Integration of Softmax and Linear Attention, arXiv 2312.08874. Official code:
LeapLabTHU/Agent-Attention, which states no licence for the weights.

What the official code does that the paper does not say: agents are pooled from the tokens of the map only, but the
class token asks them and is gathered by them, with biases of its own; the convolution of the values passes it by; the
base model has 81 agents in its first four blocks, and plain attention in the others.

Shapes at 224 (agent_deit_tiny): image 3x224x224, then a class token and 14x14 tokens of 192 channels everywhere. The
twelve blocks are four stages of three, and their maps are the features.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from timm.layers import (
    calculate_drop_path_rates,
    global_pool_nlc,
    register_notrace_module,
    to_2tuple,
    trunc_normal_,
)
from timm.models import checkpoint_seq
from torch import Tensor, nn

from attnzoo.blocks import AgentAttention, PatchStem, PositionEmbedding, SelfAttention, TransformerBlock, attended

from .agent_checkpoints import checkpoint_filter_fn, variant
from .pyramid import Pyramid, Stage
from .registration import register_variants

__all__ = ["AgentVisionTransformer"]


class Tokens(NamedTuple):
    """A class token and those of a map (B, 1 + H * W, C), and the size of the map."""

    x: Tensor
    height: int
    width: int


@register_notrace_module  # positions depend on the size of the map
class TokenStem(nn.Module):
    """Patches, a class token before them, and positions: images (B, P, H, W) -> tokens."""

    def __init__(self, in_chans: int, dim: int, patch_size: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.patches = PatchStem(in_chans, dim, patch_size, nn.Identity)
        self.class_token = nn.Parameter(trunc_normal_(torch.zeros(1, 1, dim), std=0.02))
        self.position = PositionEmbedding(dim, map_size, "bicubic", class_tokens=1)

    def forward(self, x: Tensor) -> Tokens:
        """(B, P, H, W) -> tokens of a map of ⌈H/p⌉ x ⌈W/p⌉."""
        x = self.patches(x)
        height, width = x.shape[1], x.shape[2]
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)], dim=1)
        return Tokens(tokens + self.position.at(height, width), height, width)


class PlainAttention(SelfAttention):
    """Attention over all tokens, called like attention that must know the size of the map."""

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        # (B, T, 3C) -> (3, B, h, T, D)
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj_drop(self.proj(attended(qkv[0], qkv[1], qkv[2])))


@register_notrace_module  # so do the biases of agents
class TokenBlock(TransformerBlock):
    """The residual block around attention that must know the size of the map."""

    def forward(self, tokens: Tokens) -> Tokens:  # type: ignore[override]
        """Tokens -> tokens."""
        x = tokens.x
        mixer = self.attn
        assert mixer is not None
        x = x + self.drop_path1(mixer.forward_tokens(self.norm1(x), tokens.height, tokens.width))  # type: ignore[operator]
        x = x + self.drop_path2(self.mlp(self.norm2(x)))
        return Tokens(x, tokens.height, tokens.width)


class TokenStage(Stage):
    """Blocks of tokens."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__(None, blocks)
        # a `Sequential` takes nothing but tensors in TorchScript
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]

    def forward(self, tokens: Tokens) -> Tokens:  # type: ignore[override]
        """Tokens -> tokens."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpoint_seq(self.blocks, tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class TokenHead(nn.Module):
    """A linear layer on the class token, or on pooled tokens: (B, 1 + N, C) -> (B, num_classes).

    Args:
        dim: channels C.
        num_classes: classes; 0 for no layer.
        pool_type: `token`, or `avg`, `max`, `avgmax` of the map's tokens, or an empty string for not at all.
        drop_rate: dropout before the layer.
    """

    def __init__(self, dim: int, num_classes: int, pool_type: str = "token", drop_rate: float = 0.0) -> None:
        super().__init__()
        self.num_features = dim
        self.pool_type = pool_type
        self.drop = nn.Dropout(drop_rate)
        self.fc = nn.Linear(dim, num_classes) if num_classes > 0 else nn.Identity()

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replaces the layer, and the pooling unless None."""
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        if pool_type is not None:
            self.pool_type = pool_type

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, 1 + N, C) -> (B, num_classes), or what the layer would get."""
        x = self.drop(global_pool_nlc(x, pool_type=self.pool_type, num_prefix_tokens=1))
        return x if pre_logits else self.fc(x)


class AgentVisionTransformer(Pyramid):
    """Blocks of agent attention over a class token and one map.

    It takes images of any size; the two rules that carry positions to other sizes are those of `AgentTransformer`.
    `forward_features` gives tokens (B, 1 + H * W, C), the class token first.

    Args:
        embed_dim: channels.
        depths: blocks per stage; stages differ in nothing but that their maps are features.
        num_heads: heads.
        agent_depths: per stage, how many of its first blocks are agent attention; None for all.
        num_agents: agents, a square number.
        dense_agents: agents that there are instead, with biases interpolated between those of num_agents; None for
            num_agents.
        img_size: the image, one number or (rows, columns), that positions are learned at.
        patch_size: pixels per side of a patch.
        mlp_ratio: hidden channels of an MLP over its input's.
        global_pool: `token` for the class token, or as in `TokenHead`.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout after projections and in MLPs.
        drop_path_rate: stochastic depth of the last block; it rises linearly from 0.
        in_chans, num_classes, drop_rate: as in `Pyramid`.
    """

    undecayed = (".class_token", ".position.table")
    num_prefix_tokens = 1

    def __init__(
        self,
        embed_dim: int = 192,
        depths: Sequence[int] = (3, 3, 3, 3),
        num_heads: int = 3,
        agent_depths: Sequence[int] | None = None,
        num_agents: int = 49,
        dense_agents: int | None = None,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        mlp_ratio: float = 4.0,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "token",
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        agent_depths = depths if agent_depths is None else agent_depths
        rows, columns = to_2tuple(img_size)
        map_size = -(-rows // patch_size), -(-columns // patch_size)
        norm_layer = partial(nn.LayerNorm, eps=1e-6)

        def block(is_agent: bool, drop_path: float) -> nn.Module:
            mixer: nn.Module
            if is_agent:
                mixer = AgentAttention(
                    embed_dim, num_heads, num_agents, map_size, qkv_bias, proj_drop_rate, dense_agents, class_token=True
                )
            else:
                mixer = PlainAttention(embed_dim, num_heads, qkv_bias, proj_drop_rate)
            return TokenBlock(embed_dim, mixer, mlp_ratio, None, drop_path, proj_drop_rate, norm_layer)

        stages = [
            TokenStage([block(j < agent_depths[i], rate) for j, rate in enumerate(rates)])
            for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True))
        ]
        super().__init__(
            TokenStem(in_chans, embed_dim, patch_size, map_size),
            stages,
            widths=[embed_dim] * len(depths),
            reductions=[patch_size] * len(depths),
            norm=norm_layer(embed_dim),
            in_chans=in_chans,
            num_classes=num_classes,
            drop_rate=drop_rate,
            head=TokenHead(embed_dim, num_classes, global_pool, drop_rate),
        )
        self.stages = nn.ModuleList(stages)  # type: ignore[assignment]

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> tokens (B, 1 + H * W, C), normed, the class token first."""
        tokens = self.stem(x)
        for stage in self.stages:
            tokens = stage(tokens)
        return self._finish(tokens)

    def _map(self, x: Tokens) -> Tensor:  # type: ignore[override]
        return x.x[:, 1:].reshape(x.x.shape[0], x.height, x.width, -1)

    def _finish(self, x: Tokens) -> Tensor:  # type: ignore[override]
        return self.norm(x.x)


_TINY: dict[str, Any] = {"embed_dim": 192, "depths": (3, 3, 3, 3), "num_heads": 3}
_SMALL = {**_TINY, "embed_dim": 384, "num_heads": 6, "drop_path_rate": 0.1}

register_variants(
    __name__,
    AgentVisionTransformer,
    checkpoint_filter_fn,
    {
        name: variant(*row, first_conv="stem.patches.proj", has_map=False, **arguments)
        for name, row, arguments in (
            (
                "agent_deit_pico",
                ("Agent-DeiT for demos and tests, ours.", "", None),
                {"embed_dim": 96, "depths": (1, 1, 2, 2), "agent_depths": (1, 1, 2, 1), "num_agents": 16},
            ),
            ("agent_deit_tiny", ("Agent-DeiT-Tiny.", "57e0904221824ee7b7af", (74.9, 6.0, 1.2)), _TINY),
            ("agent_deit_small", ("Agent-DeiT-Small.", "fdd43304372541db8ea7", (80.5, 22.7, 4.4)), _SMALL),
            (
                "agent_deit_small_448",
                ("Agent-DeiT-Small at 448x448.", "a228f86241c445f1969b", (83.1, 23.1, 17.7)),
                {**_SMALL, "size": 448},
            ),
            (
                "agent_deit_base",
                ("Agent-DeiT-Base, with agents in the first four blocks.", "5115f15fdd7e4ab58fbc", (82.0, 87.2, 17.6)),
                {
                    **_TINY,
                    "embed_dim": 768,
                    "num_heads": 12,
                    "agent_depths": (3, 1, 0, 0),
                    "num_agents": 81,
                    "drop_path_rate": 0.3,
                },
            ),
        )
    },
)
