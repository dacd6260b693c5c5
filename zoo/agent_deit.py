"""Agent-DeiT: a plain vision transformer with a class token and agent attention.

Paper: Agent Attention: On the Integration of Softmax and Linear Attention, arXiv 2312.08874. Official code:
LeapLabTHU/Agent-Attention, which states no licence for the weights.

What the official code does that the paper does not say: agents are pooled from the tokens of the map only, but the
class token attends to them and they attend to it, with separate biases; the convolution of the values leaves out the
class token; the base model has 81 agents in its first four blocks, and plain attention in the others.

Shapes at 224 (agent_deit_tiny): image 3x224x224, then a class token and 14x14 tokens of 192 channels everywhere. The
twelve blocks are grouped into four stages of three, whose maps are the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.layers import to_2tuple
from torch import nn

from attnzoo.blocks import AgentAttention, PatchStem, PositionEmbedding, QuantizableAttention

from .agent_checkpoints import agent_family, variant
from .base import IsotropicTokens, PlainAttention, PlainMlp, TokenBlock, TokenStage, TokenStem, stages_of

__all__ = ["AgentVisionTransformer"]


class AgentVisionTransformer(IsotropicTokens):
    """Blocks of agent attention over a class token and one map.

    It takes images of any size, and adapts positions to other sizes in the same two ways as `AgentTransformer`.
    `forward_features` returns tokens (B, 1 + H * W, C), the class token first.

    Args:
        embed_dim: channels.
        depths: blocks per stage; stages only determine which maps are the features.
        num_heads: heads.
        agent_depths: per stage, the number of blocks, from its first, with agent attention; None for all.
        num_agents: agents, a square number.
        dense_agents: agents used instead, with biases interpolated from those of num_agents; None for num_agents.
        img_size: image size that positions are learned at, one number or (rows, columns).
        patch_size: pixels per side of a patch.
        mlp_ratio: hidden channels of an MLP divided by its input channels.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        softmax, clip, gate, gate_probability: options of plain attention, see `QuantizableAttention`. With
            `agent_depths=(0, 0, 0, 0)` all attention is plain.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` (`token` or as in `TokenHead`) and `drop_rate`, see `IsotropicTokens`.
    """

    undecayed = (".class_token", ".position.table")

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
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        softmax: str = "full",
        clip: tuple[float, float] | float = (-0.003, 1.0),
        gate: str | None = None,
        gate_probability: float | None = None,
        **head: Any,
    ) -> None:
        agent_depths = depths if agent_depths is None else agent_depths
        rows, columns = to_2tuple(img_size)
        map_size = -(-rows // patch_size), -(-columns // patch_size)
        norm_layer = partial(nn.LayerNorm, eps=1e-6)

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            mixer: nn.Module
            if index < agent_depths[stage]:
                mixer = AgentAttention(
                    embed_dim, num_heads, num_agents, map_size, qkv_bias, proj_drop_rate, dense_agents, class_token=True
                )
            elif softmax == "full" and gate is None:
                mixer = PlainAttention(embed_dim, num_heads, qkv_bias, proj_drop_rate)
            else:
                mixer = QuantizableAttention(
                    embed_dim, num_heads, qkv_bias, proj_drop_rate, softmax, clip, gate, gate_probability
                )
            mlp = PlainMlp(embed_dim, int(embed_dim * mlp_ratio), proj_drop_rate)
            return TokenBlock(embed_dim, mixer, drop_path=drop_path, norm_layer=norm_layer, mlp=mlp)

        stages = stages_of(depths, drop_path_rate, block, stage=TokenStage)
        patches = PatchStem(in_chans, embed_dim, patch_size, nn.Identity)
        position = PositionEmbedding(embed_dim, map_size, "bicubic", class_tokens=1)
        super().__init__(
            TokenStem(patches, embed_dim, position),
            stages,
            dim=embed_dim,
            patch_size=patch_size,
            norm=norm_layer(embed_dim),
            in_chans=in_chans,
            **head,
        )


_TINY: dict[str, Any] = {"embed_dim": 192, "depths": (3, 3, 3, 3), "num_heads": 3}
_SMALL = {**_TINY, "embed_dim": 384, "num_heads": 6, "drop_path_rate": 0.1}
_BASE = {
    **_TINY,
    "embed_dim": 768,
    "num_heads": 12,
    "agent_depths": (3, 1, 0, 0),
    "num_agents": 81,
    "drop_path_rate": 0.3,
}

# tokens have no pooled map
family = agent_family(
    __name__,
    AgentVisionTransformer,
    first_conv="stem.patches.proj",
    cfg={"crop_mode": "squash", "pool_size": None},
)
_deit = partial(variant, family)

family.register(
    {
        "agent_deit_pico": family.pico(
            embed_dim=96,
            depths=(1, 1, 2, 2),
            agent_depths=(1, 1, 2, 1),
            num_agents=16,
        ),
        "agent_deit_tiny": _deit("Agent-DeiT-Tiny.", "57e0904221824ee7b7af", (74.9, 6.0, 1.2), **_TINY),
        "agent_deit_small": _deit("Agent-DeiT-Small.", "fdd43304372541db8ea7", (80.5, 22.7, 4.4), **_SMALL),
        "agent_deit_small_448": _deit(
            "Agent-DeiT-Small at 448x448.", "a228f86241c445f1969b", (83.1, 23.1, 17.7), size=448, **_SMALL
        ),
        "agent_deit_base": _deit(
            "Agent-DeiT-Base, with agents in the first four blocks.",
            "5115f15fdd7e4ab58fbc",
            (82.0, 87.2, 17.6),
            **_BASE,
        ),
    }
)
