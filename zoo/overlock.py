"""OverLoCK: a pyramid of dynamic convolutions that are guided by an overview computed first.

Paper: OverLoCK: An Overview-first-Look-Closely-next ConvNet with Context-Mixing Dynamic Kernels, arXiv 2502.20087.
Official code: LMMMEng/OverLoCK, Apache-2.0 licence.

What the official code does that the paper does not say: layer scale multiplies the shortcut; ContMix scales queries by
twice the width of a head; the hidden channels of the MLP of a focus block depend on the channels of the map without the
context; there are twice as many heads as in its configurations; position tables have weight decay, like all tensors
with more than one axis. Published parameter counts are those of the inference network: without the auxiliary head, and
with the branches of large convolutions merged.

Shapes at 224 (overlock_t): image 3x224x224, stem 56x56x64, stages 56x56x64, 28x28x128, 14x14x(256 + 128) after the
7x7x512 overview, 7x7x(512 + 128), and 7x7x1024 before pooling.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates
from torch import Tensor, nn

from attnzoo.blocks import (
    AuxiliaryHead,
    ContextDownsample,
    ConvNorm,
    ConvNormStem,
    FocusBlock,
    ReparamConvBlock,
)

from .base import Family, Pyramid, Stage, Variant, init_convolution
from .overlock_checkpoint import checkpoint_filter_fn
from .overlock_stages import FocusStage, OverviewStage

__all__ = ["OverLoCK"]


class OverLoCK(Pyramid):
    """Two static stages, then two focus stages; the third stage computes the overview.

    The maps of the focus stages have additional channels for their context. With `aux_head` and classes, the network
    returns a pair in training mode, the logits and those of the auxiliary head; otherwise the logits alone.

    Args:
        embed_dims: channels at the four map sizes; the context has a quarter of the last.
        depths: static blocks at the four map sizes; the last are those of the overview.
        focus_depths: focus blocks of the third and fourth stages.
        num_heads: heads of the focus blocks in the third and fourth stages.
        kernel_sizes: large kernel sizes at the four map sizes, odd, from 5 to 19.
        small_kernel_size: small kernel size of ContMix.
        mlp_ratio, focus_mlp_ratio: hidden channels of MLPs divided by the channels of the map.
        projection: channels before pooling.
        aux_head: whether there is an auxiliary classifier of the overview, for training with its loss.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0, in the order of the
            stages, with the overview before the focus blocks.
        in_chans: channels of the image.
        head: `num_classes`, `global_pool` and `drop_rate`, see `Pyramid`.
    """

    undecayed = ()

    def __init__(
        self,
        embed_dims: Sequence[int] = (64, 128, 256, 512),
        depths: Sequence[int] = (4, 4, 6, 2),
        focus_depths: Sequence[int] = (12, 2),
        num_heads: Sequence[int] = (8, 16),
        kernel_sizes: Sequence[int] = (17, 15, 13, 7),
        small_kernel_size: int = 5,
        mlp_ratio: float = 4.0,
        focus_mlp_ratio: float = 3.0,
        projection: int = 1024,
        aux_head: bool = False,
        in_chans: int = 3,
        drop_path_rate: float = 0.0,
        **head: Any,
    ) -> None:
        context_dim = embed_dims[3] // 4
        rates = calculate_drop_path_rates(drop_path_rate, [*depths, *focus_depths], stagewise=True)

        def static(size: int) -> list[nn.Module]:
            return [
                ReparamConvBlock(embed_dims[size], kernel_sizes[size], mlp_ratio, scaled=size > 1, drop_path=rate)
                for rate in rates[size]
            ]

        def focus(size: int) -> list[nn.Module]:
            return [
                FocusBlock(
                    embed_dims[size],
                    context_dim,
                    num_heads[size - 2],
                    kernel_sizes[size],
                    small_kernel_size,
                    focus_mlp_ratio,
                    refreshed=size == 3 or i > 0,
                    drop_path=rate,
                )
                for i, rate in enumerate(rates[size + 2])
            ]

        context = nn.Linear(embed_dims[3], context_dim)

        def down(size: int) -> nn.Module:
            return ConvNorm(embed_dims[size - 1], embed_dims[size], 3, 2)

        super().__init__(
            ConvNormStem(
                in_chans, (embed_dims[0] // 2, embed_dims[0] // 2, embed_dims[0], embed_dims[0]), (2, 1, 2, 1)
            ),
            [
                Stage(None, static(0)),
                Stage(down(1), static(1)),
                OverviewStage(down(2), static(2), [down(3), *static(3)], context, focus(2)),
                FocusStage(ContextDownsample(embed_dims[2], embed_dims[3], context_dim), focus(3)),
            ],
            widths=[*embed_dims[:2], embed_dims[2] + context_dim, embed_dims[3] + context_dim],
            reductions=(4, 8, 16, 32),
            norm=nn.Sequential(ConvNorm(embed_dims[3] + context_dim, projection), nn.SiLU()),
            num_features=projection,
            in_chans=in_chans,
            **head,
        )
        self.overview_dim = embed_dims[3]
        self.has_aux_head = aux_head
        self.aux_head: nn.Module | None = None
        self._reset_aux_head()
        self.apply(init_convolution)

    def forward(self, x: Tensor) -> Any:
        """Images (B, in_chans, H, W) -> logits (B, num_classes); in training also those of the auxiliary head."""
        x = self.stages(self.stem(x))
        logits = self.forward_head(self._finish(x))
        if self.training and self.aux_head is not None:
            return logits, self.aux_head(x[2])
        return logits

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replaces both classifiers; without classes there is no auxiliary head."""
        super().reset_classifier(num_classes, global_pool)
        self._reset_aux_head()

    def _reset_aux_head(self) -> None:
        if not self.has_aux_head or self.num_classes == 0:
            self.aux_head = None
        elif isinstance(self.aux_head, AuxiliaryHead):
            self.aux_head.reset(self.num_classes)
        else:
            self.aux_head = AuxiliaryHead(self.overview_dim, self.num_classes)

    def _map(self, x: Tensor | tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return x if isinstance(x, Tensor) else x[0]

    def _finish(self, x: Tensor | tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return self.norm(self._map(x))

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns that group parameters by depth; the overview comes before the focus blocks of its stage."""
        if coarse:
            return super().group_matcher(coarse)
        return {
            "stem": r"^stem",
            "base": [
                (r"^stages\.([012])\.downsample", (0,)),
                (r"^stages\.([01])\.blocks\.(\d+)", None),
                (r"^stages\.(2)\.base\.(\d+)", None),
            ],
            "overview": [(r"^stages\.2\.overview\.(\d+)", None), (r"^stages\.2\.context", (99999,))],
            "focus": [
                (r"^stages\.(\d)\.downsample", (0,)),
                (r"^stages\.(\d)\.blocks\.(\d+)", None),
                (r"^norm", (99999,)),
            ],
        }


family = Family(
    __name__,
    OverLoCK,
    checkpoint_filter_fn,
    code="https://github.com/LMMMEng/OverLoCK",
    paper="2502.20087",
    license="apache-2.0",
    first_conv="stem.0.conv",
    source="/blob/main/README.md",
    cfg={"crop_pct": 0.95, "classifier": ("head.fc", "aux_head.fc")},
)


def _official(name: str, published: tuple[float, float, float], crop_pct: float, **arguments: Any) -> Variant:
    url = f"{family.code}/releases/download/v1/overlock_{name}_in1k_224.pth"
    return family.variant(f"OverLoCK-{name.upper()}.", url, published, cfg={"crop_pct": crop_pct}, **arguments)


family.register(
    {
        "overlock_pico": family.pico(
            embed_dims=(16, 32, 64, 96),
            depths=(1, 1, 1, 1),
            focus_depths=(2, 1),
            num_heads=(4, 4),
            kernel_sizes=(7, 7, 5, 5),
            small_kernel_size=3,
            mlp_ratio=3,
            projection=512,
        ),
        "overlock_xt": _official(
            "xt",
            (82.7, 16, 2.6),
            0.925,
            drop_path_rate=0.1,
            embed_dims=(56, 112, 256, 336),
            depths=(2, 2, 3, 2),
            focus_depths=(6, 2),
            num_heads=(8, 12),
        ),
        "overlock_t": _official(
            "t",
            (84.2, 33, 5.5),
            0.95,
            drop_path_rate=0.15,
            embed_dims=(64, 128, 256, 512),
            depths=(4, 4, 6, 2),
            focus_depths=(12, 2),
            num_heads=(8, 16),
        ),
        "overlock_s": _official(
            "s",
            (84.8, 56, 9.7),
            0.95,
            drop_path_rate=0.4,
            embed_dims=(64, 128, 320, 512),
            depths=(6, 6, 8, 3),
            focus_depths=(16, 3),
            num_heads=(16, 32),
        ),
        "overlock_b": _official(
            "b",
            (85.1, 95, 16.7),
            0.975,
            drop_path_rate=0.5,
            embed_dims=(80, 160, 384, 576),
            depths=(8, 8, 10, 4),
            focus_depths=(20, 4),
            num_heads=(12, 18),
        ),
    }
)
