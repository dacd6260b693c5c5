"""Perceiver: latents attend to the pixels once, then to each other, and a learned query reads the class.

Papers: Perceiver, arXiv 2103.03206, and Perceiver IO, arXiv 2107.14795, whose networks for images these are. Official
code: google-deepmind/deepmind-research, perceiver, Apache 2.0 licence; the weights are those of Hugging Face's
transformers.

What the code does that the papers do not say: hidden channels of MLPs are as many as their inputs; in the first
attention, queries, keys and values have the channels of the tokens. transformers computes two things in another way
than the authors, see `arithmetic`. Learned positions are interpolated bicubically to other sizes; Fourier features have
the same frequencies at every size.

Shapes at 224: tokens 50176x512 (perceiver_learned), 50176x261 (perceiver_fourier) or 3025x322 (perceiver_conv), then
latents 512x1024. There are no maps, so there is no `features_only`.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import re
from typing import Any

import torch
from timm.layers import calculate_drop_path_rates, resample_abs_pos_embed, to_2tuple, trunc_normal_
from torch import Tensor, nn

from attnzoo.blocks import CrossBlock, FourierTokens, LearnedTokens, Mlp, PooledConv, QueryHead, TransformerBlock

from .base import Backbone, Family, PlainAttention, Renames, checkpointed_sequence, renamed, unwrapped

__all__ = ["Perceiver"]

TOKENS = ("learned", "fourier", "conv")
ARITHMETIC = ("transformers", "original")


class Perceiver(Backbone):
    """Latents that attend to the tokens of an image of any size, and then, repeatedly, to each other.

    Args:
        tokens: `learned` for pixels with learned positions, `fourier` for pixels with Fourier features of their
            positions, or `conv` for a map of stride 4 with such features.
        embed_dim: channels of the latents.
        num_latents: number of latents.
        depth: blocks of self-attention.
        repeats: how many times all of these blocks are applied, with the same weights.
        num_heads: heads of self-attention; cross-attention has one.
        arithmetic: `transformers`, or `original` for the authors' form: the convolution and the pooling of `conv` pad
            as in TensorFlow, which makes 56x56 tokens of an image of 224, and GELU is approximated by tanh.
        img_size: image size that positions are learned at, one number or (rows, columns).
        proj_drop_rate: dropout rate after projections and in MLPs.
        drop_path_rate: stochastic depth rate of the last block; the rate rises linearly from 0.
        in_chans: channels of the image.
        num_classes: classes; 0 for no classifier.
        global_pool: `pool_type` of `QueryHead`.
        drop_rate: dropout rate before the classifier.

    Raises:
        ValueError: the tokens or the arithmetic are unknown.
    """

    undecayed = ("latents", ".position.table", "head.query")
    # the other layers attend to latents
    attention_to_images = ("cross.attn",)

    def __init__(
        self,
        tokens: str = "conv",
        embed_dim: int = 1024,
        num_latents: int = 512,
        depth: int = 6,
        repeats: int = 8,
        num_heads: int = 8,
        arithmetic: str = "transformers",
        img_size: int | tuple[int, int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: str = "query",
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__(embed_dim, in_chans, num_classes, drop_rate)
        if tokens not in TOKENS:
            raise ValueError(f"tokens must be one of {', '.join(TOKENS)}, got {tokens!r}")
        if arithmetic not in ARITHMETIC:
            raise ValueError(f"arithmetic must be one of {', '.join(ARITHMETIC)}, got {arithmetic!r}")
        self.repeats = repeats
        self.grad_checkpointing = False
        self.stem: LearnedTokens | FourierTokens
        if tokens == "learned":
            self.stem = LearnedTokens(in_chans, 256, to_2tuple(img_size))
        elif tokens == "fourier":
            self.stem = FourierTokens(None, in_chans, resolution=224)
        else:
            self.stem = FourierTokens(PooledConv(in_chans, 64, same=arithmetic == "original"), 64, resolution=56)
        width = self.stem.num_features
        self.latents = nn.Parameter(trunc_normal_(torch.zeros(num_latents, embed_dim), std=0.02))
        self.cross = CrossBlock(embed_dim, width, 1, width, proj_drop=proj_drop_rate)
        self.blocks = nn.Sequential(
            *(
                TransformerBlock(
                    embed_dim,
                    PlainAttention(embed_dim, num_heads, proj_drop=proj_drop_rate),
                    mlp_ratio=1,
                    drop_path=rate,
                    proj_drop=proj_drop_rate,
                )
                for rate in calculate_drop_path_rates(drop_path_rate, depth)
            )
        )
        self._add_head(QueryHead(embed_dim, num_classes, global_pool, drop_rate))
        if arithmetic == "original":
            for module in self.modules():
                if isinstance(module, Mlp):
                    module.act = nn.GELU("tanh")

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Returns patterns that group parameters by depth, for layer-wise learning rates."""
        return {"stem": r"^(?:stem|latents|cross)", "blocks": [(r"^blocks\.(\d+)", None)]}

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> latents (B, num_latents, embed_dim); there is no norm after them."""
        x = self.cross(self.latents.unsqueeze(0), self.stem(x))
        for _ in range(self.repeats):
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpointed_sequence(self.blocks, x)
            else:
                x = self.blocks(x)
        return x


# Patterns of parameter names of transformers, with our names.
_RENAMES: Renames = (
    (r"^perceiver\.", ""),
    (r"^embeddings\.latents$", "latents"),
    (r"^input_preprocessor\.convnet\.conv\.", "stem.stem.conv.conv."),
    (r"^input_preprocessor\.convnet\.batchnorm\.", "stem.stem.conv.norm."),
    (r"^input_preprocessor\.convnet_1x1\.", "stem.proj."),
    (r"^input_preprocessor\.position_embeddings\.position_embeddings$", "stem.position.table"),
    (r"^input_preprocessor\.positions_projection\.", "stem.position_proj."),
    (r"^encoder\.cross_attention\.", "cross."),
    (r"^encoder\.self_attends\.", "blocks."),
    (r"^decoder\.decoder\.output_position_encodings\.position_embeddings$", "head.query"),
    (r"^decoder\.decoder\.decoding_cross_attention\.", "head.decoder."),
    (r"^decoder\.decoder\.final_layer\.", "head.fc."),
    (r"^(blocks\..*)\.attention\.self\.query\.", r"\1.attn.qkv."),
    (r"\.attention\.self\.query\.", ".attn.q."),
    (r"\.attention\.self\.key\.", ".attn.kv."),
    (r"\.attention\.self\.layernorm1\.", ".norm1."),
    (r"\.attention\.self\.layernorm2\.", ".norm_context."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm\.", ".norm2."),
    (r"\.mlp\.dense([12])\.", r".mlp.fc\1."),
)


def checkpoint_filter_fn(state_dict: dict[str, Any], model: nn.Module) -> dict[str, Tensor]:
    """Converts a checkpoint of transformers, or one of this project, to this project's names.

    Positions that were learned at another image size than the model's are interpolated.
    """
    weights, result = unwrapped(state_dict), dict[str, Tensor]()
    for official, tensor in weights.items():
        part = re.search(r"\.attention\.self\.(query|key|value)\.", official)
        if part is not None:
            # they are one layer here; that of the queries stands apart where the keys are of other tokens
            parts = ("query", "key", "value") if ".self_attends." in official else ("key", "value")
            if part[1] in parts[1:]:
                continue
            if part[1] == parts[0]:
                names = [official.replace(f".{part[1]}.", f".{other}.") for other in parts]
                tensor = torch.cat([weights[name] for name in names])
        result[renamed(official, _RENAMES)] = tensor
    table = result.get("stem.position.table")
    if table is not None:
        result["stem.position.table"] = _fit(table, model)
    return result


def _fit(table: Tensor, model: nn.Module) -> Tensor:
    """Interpolates learned positions to the size of the model's, (N, C) or (1, N, C) -> (1, N', C)."""
    table, stem = table.unsqueeze(0) if table.ndim == 2 else table, getattr(model, "stem", None)
    if not isinstance(stem, LearnedTokens) or table.shape[2] != stem.position.table.shape[2]:
        return table
    return resample_abs_pos_embed(
        table, list(stem.position.map_size), num_prefix_tokens=0, interpolation="bicubic", antialias=False
    )


family = Family(
    __name__,
    Perceiver,
    checkpoint_filter_fn,
    code="https://github.com/google-deepmind/deepmind-research/tree/master/perceiver",
    paper="2107.14795",
    license="apache-2.0",
    first_conv="stem.stem.conv.conv",
    source="https://arxiv.org/abs/2107.14795",
    cfg={"pool_size": None},
)


def _perceiver(tokens: str, top1: float, first_conv: str) -> Any:
    return family.variant(
        f"Perceiver with {tokens} tokens, with the weights of transformers.",
        published=(top1, None, None),
        hub=f"deepmind/vision-perceiver-{tokens}",
        cfg={"first_conv": first_conv},
        tokens=tokens,
    )


family.register(
    {
        "perceiver_pico": family.pico(embed_dim=96, num_latents=32, depth=2, repeats=2, num_heads=3),
        "perceiver_learned": _perceiver("learned", 72.7, "stem.proj"),
        "perceiver_fourier": _perceiver("fourier", 79.0, "cross.attn.kv"),
        "perceiver_conv": _perceiver("conv", 82.1, "stem.stem.conv.conv"),
    }
)
