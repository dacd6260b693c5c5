"""Agent Attention: the pyramids of PVT, Swin and CSWin with agent attention in their first blocks.

Paper: Agent Attention: On the Integration of Softmax and Linear Attention, arXiv 2312.08874. Official code:
LeapLabTHU/Agent-Attention, which states no licence for the weights. Agent-DeiT, with its class token, is in
`agent_deit.py`.

What the official code does that the paper does not say: position biases are learned on a 7x7 grid for any number of
agents; agent attention is used in the first stages, or the first blocks of a stage, and the other blocks use the
attention of the base architecture; PVT's keys are not subsampled, it has no last norm, and the norms of its blocks, but
not of its stages, have an epsilon of 1e-6; images are resized to a square whatever their shape.

Shapes at 224 (agent_swin_tiny): image 3x224x224, stages 56x56x96, 28x28x192, 14x14x384, 7x7x768.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from timm.layers import to_2tuple
from torch import nn

from attnzoo.blocks import (
    AgentAttention,
    ConvDownsample,
    CrossShapedAttention,
    PatchMerging,
    PatchStem,
    PositionEmbedding,
    TransformerBlock,
    WindowAttention,
)

from .agent_checkpoints import agent_family, variant
from .base import Pyramid, stages_of

__all__ = ["AgentTransformer"]

LAYOUTS = ("pvt", "swin", "cswin")


class AgentTransformer(Pyramid):
    """A pyramid whose first blocks use agent attention.

    It takes images of any size. There are two ways to adapt position biases to another size. For fine-tuning, pass
    another `img_size`: the biases of a checkpoint are interpolated when it is loaded, lines linearly and tables
    bicubically. For dense prediction, keep the `img_size` of the checkpoint: the biases are interpolated bilinearly to
    every image, and `dense_agents` can increase the number of agents.

    Args:
        embed_dims: channels per stage.
        depths: blocks per stage.
        num_heads: heads per stage.
        agent_depths: per stage, the number of blocks, from its first, with agent attention; None for all. The other
            blocks have shifted windows in `swin`, and stripes in `cswin`, whose last stage attends to the whole map.
        num_agents: agents per stage, square numbers.
        dense_agents: agents per stage used instead, with biases interpolated from those of num_agents; None for
            num_agents. The official detectors have 144, 256, 784, 784 in `pvt` and 81, 144, 196, 49 in `swin`.
        img_size: image size that positions are learned at, one number or (rows, columns).
        window_size: side of windows, width of stripes.
        mlp_ratios: per stage, hidden channels of an MLP divided by its input channels.
        layout: base architecture, `pvt`, `swin` or `cswin`.
        qkv_bias: whether queries, keys and values have a bias.
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.

    Raises:
        ValueError: the layout is unknown, or `agent_depths` is not `depths` for `pvt`.
    """

    undecayed = (".rpb", ".position.table")

    def __init__(
        self,
        embed_dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        agent_depths: Sequence[int] | None = None,
        num_agents: Sequence[int] = (9, 16, 49, 49),
        dense_agents: Sequence[int] | None = None,
        img_size: int | tuple[int, int] = 224,
        window_size: int = 7,
        mlp_ratios: Sequence[float] = (4, 4, 4, 4),
        layout: str = "swin",
        in_chans: int = 3,
        qkv_bias: bool = True,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        if layout not in LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, got {layout!r}")
        agent_depths = depths if agent_depths is None else agent_depths
        if layout == "pvt" and tuple(agent_depths) != tuple(depths):
            raise ValueError(
                f"layout 'pvt' has agent attention in all blocks: leave agent_depths out, got {agent_depths}"
            )
        rows, columns = to_2tuple(img_size)
        reductions = [4 * 2**i for i in range(len(depths))]
        map_sizes = [(-(-rows // r), -(-columns // r)) for r in reductions]
        norm_layer = partial(nn.LayerNorm, eps=1e-6) if layout == "pvt" else nn.LayerNorm

        def block(stage: int, index: int, drop_path: float) -> nn.Module:
            dim, heads = embed_dims[stage], num_heads[stage]
            mixer: nn.Module
            if index < agent_depths[stage]:
                agents = None if dense_agents is None else dense_agents[stage]
                mixer = AgentAttention(
                    dim, heads, num_agents[stage], map_sizes[stage], qkv_bias, proj_drop_rate, agents
                )
            elif layout == "swin":
                mixer = WindowAttention(dim, heads, window_size, index % 2 == 1, qkv_bias, proj_drop_rate)
            else:
                is_last = stage == len(depths) - 1
                mixer = CrossShapedAttention(dim, heads, None if is_last else window_size, qkv_bias, proj_drop_rate)
            return TransformerBlock(dim, mixer, mlp_ratios[stage], None, drop_path, proj_drop_rate, norm_layer)

        downsamplers: dict[str, Callable[[int, int], nn.Module]] = {
            "pvt": partial(ConvDownsample, kernel_size=2, bias=True),
            "swin": PatchMerging,
            "cswin": partial(ConvDownsample, bias=True),
        }

        def position(stage: int) -> nn.Module:
            return PositionEmbedding(embed_dims[stage], map_sizes[stage])

        stages = stages_of(
            depths,
            drop_path_rate,
            block,
            lambda stage: downsamplers[layout](embed_dims[stage - 1], embed_dims[stage]),
            position=position if layout == "pvt" else None,
        )
        super().__init__(
            PatchStem(in_chans, embed_dims[0], 4, kernel_size=7 if layout == "cswin" else 4),
            stages,
            widths=embed_dims,
            reductions=reductions,
            norm=nn.Identity() if layout == "pvt" else nn.LayerNorm(embed_dims[-1]),
            in_chans=in_chans,
            **head,
        )


# both sides of an image are resized, whatever its shape
family = agent_family(__name__, AgentTransformer, first_conv="stem.proj", cfg={"crop_mode": "squash"})
_agent = partial(variant, family)

# Arguments that the variants of a size share.
_PVT: dict[str, Any] = {
    "layout": "pvt",
    "embed_dims": (64, 128, 320, 512),
    "num_heads": (1, 2, 5, 8),
    "mlp_ratios": (8, 8, 4, 4),
}
_PVT_TINY = {**_PVT, "depths": (2, 2, 2, 2), "drop_path_rate": 0.1}
_PVT_SMALL = {**_PVT_TINY, "depths": (3, 4, 6, 3)}
_PVT_MEDIUM = {**_PVT, "depths": (3, 4, 18, 3), "drop_path_rate": 0.3}
_SWIN: dict[str, Any] = {"layout": "swin", "embed_dims": (96, 192, 384, 768), "num_heads": (3, 6, 12, 24)}
_SWIN_SMALL = {**_SWIN, "depths": (2, 2, 18, 2), "agent_depths": (2, 2, 0, 0), "drop_path_rate": 0.3}
_SWIN_BASE = {
    **_SWIN_SMALL,
    "embed_dims": (128, 256, 512, 1024),
    "num_heads": (4, 8, 16, 32),
    "agent_depths": (2, 2, 2, 0),
    "drop_path_rate": 0.5,
}
_CSWIN: dict[str, Any] = {"layout": "cswin", "embed_dims": (64, 128, 256, 512), "num_heads": (2, 4, 8, 16)}
_CSWIN_SMALL = {**_CSWIN, "depths": (3, 6, 29, 2), "agent_depths": (3, 6, 0, 0), "drop_path_rate": 0.4}
_CSWIN_BASE = {
    **_CSWIN_SMALL,
    "embed_dims": (96, 192, 384, 768),
    "num_heads": (4, 8, 16, 32),
    "drop_path_rate": 0.5,
}
# variants of this project
_PICO: dict[str, Any] = {
    "embed_dims": (24, 48, 96, 144),
    "depths": (1, 2, 2, 1),
    "num_heads": (1, 2, 4, 6),
    "num_agents": (4, 9, 16, 16),
    "mlp_ratios": (2, 2, 2, 2),
}
_SWIN_PICO = {**_PICO, "layout": "swin", "agent_depths": (1, 2, 1, 0)}
_CSWIN_PICO = {**_PICO, "layout": "cswin", "agent_depths": (1, 2, 0, 0)}

family.register(
    {
        "agent_pico": family.pico(**_PICO, layout="pvt"),
        "agent_swin_pico": family.pico(**_SWIN_PICO),
        "agent_cswin_pico": family.pico(**_CSWIN_PICO),
        "agent_pvt_tiny": _agent("Agent-PVT-Tiny.", "13fdf0e0a7c5498c934f", (78.4, 11.6, 2.0), **_PVT_TINY),
        "agent_pvt_small": _agent("Agent-PVT-Small.", "36b8be9a8863456685a3", (82.2, 20.6, 4.0), **_PVT_SMALL),
        "agent_pvt_medium": _agent("Agent-PVT-Medium.", "4d00ecacf18b45f9b88c", (83.4, 35.9, 7.0), **_PVT_MEDIUM),
        "agent_pvt_medium_256": _agent(
            "Agent-PVT-Medium at 256x256.", "654df734121643b19c52", (83.8, 36.1, 9.2), size=256, **_PVT_MEDIUM
        ),
        "agent_pvt_large": _agent(
            "Agent-PVT-Large.",
            "040cfe0cfbbe4762ad09",
            (83.7, 48.7, 10.4),
            **{**_PVT_MEDIUM, "depths": (3, 8, 27, 3)},
        ),
        "agent_swin_tiny": _agent(
            "Agent-Swin-Tiny.",
            "a2ddc1190c224f768a41",
            (82.6, 29, 4.5),
            **_SWIN,
            depths=(2, 2, 6, 2),
            agent_depths=(2, 2, 6, 0),
            drop_path_rate=0.2,
        ),
        "agent_swin_small": _agent("Agent-Swin-Small.", "f607172c9fea4d6e99bb", (83.7, 50, 8.7), **_SWIN_SMALL),
        "agent_swin_small_288": _agent(
            "Agent-Swin-Small at 288x288, with larger windows.",
            "09760394e93b4046a25e",
            (84.1, 50, 14.6),
            size=288,
            cfg={"crop_pct": 1.0},
            window_size=9,
            **_SWIN_SMALL,
        ),
        "agent_swin_base": _agent("Agent-Swin-Base.", "4fcd2d0114bb490483c3", (84.0, 88, 15.4), **_SWIN_BASE),
        "agent_swin_base_384": _agent(
            "Agent-Swin-Base at 384x384, with larger windows.",
            "bb84ee9058954706a557",
            (84.9, 88, 46.3),
            size=384,
            cfg={"crop_pct": 1.0},
            window_size=12,
            **_SWIN_BASE,
        ),
        "agent_cswin_tiny": _agent(
            "Agent-CSWin-Tiny.",
            "8c562a74441e46d5902b",
            (83.1, 21, 4.3),
            **_CSWIN,
            depths=(2, 4, 18, 1),
            agent_depths=(2, 4, 0, 0),
            drop_path_rate=0.2,
        ),
        "agent_cswin_small": _agent("Agent-CSWin-Small.", "30eb8af675bc4b7a8747", (83.9, 33, 6.8), **_CSWIN_SMALL),
        "agent_cswin_base": _agent("Agent-CSWin-Base.", "c8035b0839b2410c8c9f", (84.7, 73, 14.9), **_CSWIN_BASE),
        "agent_cswin_base_384": _agent(
            "Agent-CSWin-Base at 384x384, with wider stripes.",
            "1239be0df44b47719432",
            (85.8, 73, 46.3),
            size=384,
            window_size=12,
            **{**_CSWIN_BASE, "drop_path_rate": 0.7},
        ),
    }
)
