"""SHViT: convolutions at a coarse stride, and attention with one head on a part of the channels.

Paper: SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design, arXiv 2401.16456. Official code:
ysj9909/SHViT, MIT licence. timm has networks of these names, whose layers are named otherwise: they do not load the
official files, so ours are `zoo_shvit_s1` to `zoo_shvit_s4`.

What the official code does that the paper does not say: the norm before attention is a group norm over the attended
channels and the whole map; a batch norm stands between pooling and classifier; no sample ever skips a layer.

Shapes at 224 (zoo_shvit_s1): image 3x224x224, stages 128x14x14, 224x7x7, 320x4x4.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import NormMlpClassifierHead, calculate_drop_path_rates
from torch import Tensor, nn

from attnzoo.blocks import ConvNormStem, SingleHeadBlock, SqueezeMerging, as_affine

from .pyramid import Pyramid, Stage
from .registration import Variant, figures, register_variants

__all__ = ["SHViT"]


class NormHead(NormMlpClassifierHead):
    """Pooling, batch norm and a linear layer; `fuse` folds the norm into the layer."""

    @torch.no_grad()
    def fuse(self) -> "NormHead":
        """Itself, without the norm; where there is no linear layer it stays."""
        norm, fc = self.get_submodule("norm"), self.get_submodule("fc")
        if isinstance(fc, nn.Linear) and isinstance(norm, nn.BatchNorm2d):
            scale, shift = as_affine(norm)
            weight = fc.weight.to(scale.dtype)
            fc.bias.add_(weight @ shift)
            fc.weight.copy_(weight * scale)
            self.norm = nn.Identity()
        return self


class SHViT(Pyramid):
    """Three stages at strides 16, 32 and 64; attention in all but the first. Maps are channel-first, of any size.

    Args:
        embed_dims: channels per stage, the first a multiple of 8.
        depths: blocks per stage.
        attended_dims: per stage, the channels that attend; 0 for no attention.
        drop_path_rate: stochastic depth of the last block, for fine-tuning; it rises linearly from 0.
        in_chans, num_classes, global_pool, drop_rate: as in `Pyramid`.
    """

    def __init__(
        self,
        embed_dims: Sequence[int] = (128, 224, 320),
        depths: Sequence[int] = (2, 4, 5),
        attended_dims: Sequence[int] = (0, 48, 68),
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        def downsampler(dim: int, out_dim: int) -> nn.Module:
            return nn.Sequential(SingleHeadBlock(dim), SqueezeMerging(dim, out_dim), SingleHeadBlock(out_dim))

        stages = [
            Stage(
                downsampler(embed_dims[i - 1], embed_dims[i]) if i > 0 else None,
                [SingleHeadBlock(embed_dims[i], attended_dims[i], rate) for rate in rates],
            )
            for i, rates in enumerate(calculate_drop_path_rates(drop_path_rate, list(depths), stagewise=True))
        ]
        widths = [embed_dims[0] // part for part in (8, 4, 2, 1)]
        super().__init__(
            ConvNormStem(in_chans, widths, act_layer=nn.ReLU, channels_last=False),
            stages,
            widths=embed_dims,
            reductions=[16 * 2**i for i in range(len(depths))],
            norm=nn.Identity(),
            in_chans=in_chans,
            num_classes=num_classes,
            drop_rate=drop_rate,
            output_fmt="NCHW",
            head=NormHead(embed_dims[-1], num_classes, None, global_pool, drop_rate, nn.BatchNorm2d),
        )


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Official checkpoints, or this project's own, to this project's names; linear weights to 1x1 convolutions."""
    for key in ("state_dict", "model"):
        state_dict = state_dict.get(key, state_dict)
    wanted = {name: tensor.ndim for name, tensor in model.state_dict().items()}
    result = {}
    for name, tensor in state_dict.items():
        name = rename(name)
        # some are stored as matrices
        result[name] = tensor[..., None, None] if tensor.ndim == 2 and wanted.get(name) == 4 else tensor
    return result


# The official name of a parameter, as a pattern, and ours. A residual layer's inner one is their `m`; the three modules
# before the blocks of a stage, two pairs of layers around merging, are our downsampler.
_RENAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"^module\.", ""),
    (r"^patch_embed\.", "stem."),
    (r"^blocks([23])\.([02])\.0\.m\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.{match[2]}.conv.conv."),
    (r"^blocks([23])\.([02])\.1\.m\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.{match[2]}.mlp."),
    (r"^blocks([23])\.1\.", lambda match: f"stages.{int(match[1]) - 1}.downsample.1."),
    (r"^blocks1\.", "stages.0.blocks."),
    (r"^blocks([23])\.(\d+)\.", lambda match: f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 3}."),
    (r"\.conv\.m\.", ".conv.conv."),
    (r"\.mixer\.m\.pre_norm\.", ".attn.norm."),
    (r"\.mixer\.m\.qkv\.", ".attn.qkv."),
    (r"\.mixer\.m\.proj\.1\.", ".attn.proj."),
    (r"\.ffn\.m\.", ".mlp."),
    (r"\.mlp\.pw([12])\.", r".mlp.fc\1."),
    (r"\.c\.weight$", ".conv.weight"),
    (r"^head\.bn\.", "head.norm."),
    (r"^head\.l\.", "head.fc."),
    (r"\.bn\.", ".norm."),
)


def rename(name: str) -> str:
    """This project's name of an official parameter; a name of ours stays."""
    for pattern, replacement in _RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


_CODE = "https://github.com/ysj9909/SHViT"


def default_cfg(url: str = "", size: int = 224) -> dict[str, Any]:
    """What timm needs to know of a pretrained model, with the official preprocessing."""
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, size, size),
        "pool_size": (4, 4),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stem.0.conv",
        "classifier": "head.fc",
        "license": "mit",
        "origin_url": _CODE,
        "paper_ids": "arXiv:2401.16456",
    }


def _variant(size: str, published: tuple[float, float, float], image: int = 224, **arguments: Any) -> Variant:
    cfg = default_cfg(f"{_CODE}/releases/download/v1.0/shvit_{size}.pth", image)
    source = f"{_CODE}/blob/main/README.md"
    return Variant(f"SHViT-{size.upper()}.", arguments, cfg, published=figures(*published, source=source))


register_variants(
    __name__,
    SHViT,
    checkpoint_filter_fn,
    {
        "shvit_pico": Variant(
            "SHViT for demos and tests, ours.",
            {"embed_dims": (64, 96, 128), "depths": (1, 2, 2), "attended_dims": (0, 24, 32)},
            default_cfg(),
            tag="untrained",
        ),
        "zoo_shvit_s1": _variant(
            "s1", (72.8, 6.3, 0.241), embed_dims=(128, 224, 320), depths=(2, 4, 5), attended_dims=(0, 48, 68)
        ),
        "zoo_shvit_s2": _variant(
            "s2", (75.2, 11.4, 0.366), embed_dims=(128, 308, 448), depths=(2, 4, 5), attended_dims=(0, 66, 96)
        ),
        "zoo_shvit_s3": _variant(
            "s3", (77.4, 14.2, 0.601), embed_dims=(192, 352, 448), depths=(3, 5, 5), attended_dims=(0, 75, 96)
        ),
        "zoo_shvit_s4": _variant(
            "s4", (79.4, 16.5, 0.986), 256, embed_dims=(224, 336, 448), depths=(4, 7, 6), attended_dims=(0, 72, 96)
        ),
    },
)
