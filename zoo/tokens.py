"""A class token beside the tokens of a map: what the networks are made of that pass both on.

Attention and MLP are called by `forward_tokens(x, height, width)`, with all tokens (B, 1 + H * W, C) and the size of
the map, for some must know it. Twelve blocks, say, are four stages of three, and their maps are the features.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Sequence
from typing import NamedTuple

import torch
from timm.layers import global_pool_nlc, register_notrace_module, trunc_normal_
from timm.models import checkpoint_seq
from torch import Tensor, nn

from attnzoo.blocks import Mlp, PositionEmbedding, SelfAttention, TransformerBlock, attended

from .pyramid import Pyramid, Stage


class Tokens(NamedTuple):
    """A class token and those of a map (B, 1 + H * W, C), and the size of the map."""

    x: Tensor
    height: int
    width: int


@register_notrace_module  # positions depend on the size of the map
class TokenStem(nn.Module):
    """Patches, a class token before them, and positions: images (B, P, H, W) -> tokens.

    Args:
        patches: maps images to the first map (B, H', W', C).
        dim: channels C.
        position: adds positions to all tokens; None for none.
    """

    def __init__(self, patches: nn.Module, dim: int, position: PositionEmbedding | None = None) -> None:
        super().__init__()
        self.patches = patches
        self.class_token = nn.Parameter(trunc_normal_(torch.zeros(1, 1, dim), std=0.02))
        self.position = position

    def forward(self, x: Tensor) -> Tokens:
        """(B, P, H, W) -> tokens."""
        x = self.patches(x)
        height, width = x.shape[1], x.shape[2]
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)], dim=1)
        if self.position is not None:
            tokens = tokens + self.position.at(height, width)
        return Tokens(tokens, height, width)


class PlainAttention(SelfAttention):
    """Attention over all tokens, called like attention that must know the size of the map."""

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        # (B, T, 3C) -> (3, B, h, T, D)
        qkv = self.qkv(x).reshape(x.shape[0], x.shape[1], 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj_drop(self.proj(attended(qkv[0], qkv[1], qkv[2])))


class PlainMlp(Mlp):
    """The MLP of every token, called like one that must know the size of the map."""

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.forward(x)


@register_notrace_module  # what is in it depends on the size of the map
class TokenBlock(TransformerBlock):
    """The residual block around attention and an MLP that may know the size of the map."""

    def forward(self, tokens: Tokens) -> Tokens:  # type: ignore[override]
        """Tokens -> tokens."""
        x = tokens.x
        mixer = self.attn
        assert mixer is not None
        x = x + self.drop_path1(mixer.forward_tokens(self.norm1(x), tokens.height, tokens.width))  # type: ignore[operator]
        x = x + self.drop_path2(self.mlp.forward_tokens(self.norm2(x), tokens.height, tokens.width))  # type: ignore[operator]
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


class TokenPyramid(Pyramid):
    """A class token and one map through all stages; `forward_features` gives tokens (B, 1 + H * W, C).

    Args:
        stem: a `TokenStem`.
        stages: of tokens.
        dim: channels C.
        patch_size: pixels per side of a patch.
        norm: of the last stage's tokens.
        in_chans, num_classes, global_pool, drop_rate: as in `Pyramid`, but `token` pools the class token.
    """

    num_prefix_tokens = 1

    def __init__(
        self,
        stem: TokenStem,
        stages: Sequence[TokenStage],
        *,
        dim: int,
        patch_size: int,
        norm: nn.Module,
        in_chans: int,
        num_classes: int,
        global_pool: str,
        drop_rate: float,
    ) -> None:
        super().__init__(
            stem,
            stages,
            widths=[dim] * len(stages),
            reductions=[patch_size] * len(stages),
            norm=norm,
            in_chans=in_chans,
            num_classes=num_classes,
            drop_rate=drop_rate,
            head=TokenHead(dim, num_classes, global_pool, drop_rate),
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
