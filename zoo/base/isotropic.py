"""Plain networks: blocks over one map size and one width throughout, with or without prefix tokens.

Without a map of features at several sizes there is nothing to call a stage, so runs of `depths` blocks are stages, and
their outputs are the features. `Isotropic` passes maps (B, H, W, C) on; `IsotropicTokens` passes `Tokens` on, prefix
tokens such as a class token before those of the map. Attention and MLP of tokens are called by `forward_tokens(x,
height, width)`, with all tokens and the size of the map, which some must know.

Shape legend: B batch, H W map, C channels, P prefix tokens, N tokens of the map that are kept, T = P + N.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import torch
from timm.layers import global_pool_nlc, register_notrace_module, trunc_normal_
from timm.models import checkpoint_seq
from torch import Tensor, nn

from attnzoo.blocks import Mlp, PositionEmbedding, SelfAttention, TransformerBlock, attended

from .pyramid import Pyramid, Stage


class Isotropic(Pyramid):
    """Blocks over maps of one size.

    Args:
        stem: maps images to the map, or to tokens.
        stages: without downsamplers.
        dim: channels C.
        patch_size: pixels per side of a patch.
        norm: applied to the last stage's output.
        kwargs: `in_chans`, `num_classes`, `global_pool`, `drop_rate` and the others of `Pyramid`.
    """

    def __init__(
        self, stem: nn.Module, stages: Sequence[Stage], *, dim: int, patch_size: int, norm: nn.Module, **kwargs: Any
    ) -> None:
        count = len(stages)
        super().__init__(stem, stages, widths=[dim] * count, reductions=[patch_size] * count, norm=norm, **kwargs)


class Tokens(NamedTuple):
    """Tokens and the map that they come from.

    Attributes:
        x: (B, T, C), prefix tokens first.
        height, width: of the map.
        kept: (B, N) numbers of the tokens of the map that are there, row by row from 0; None where all are, in order.
            A block that leaves tokens out sets it, and attention that must see the whole map cannot follow.
    """

    x: Tensor
    height: int
    width: int
    kept: Optional[Tensor] = None  # noqa: UP045  (TorchScript reads no other union in a named tuple)


@register_notrace_module  # positions depend on the size of the map
class TokenStem(nn.Module):
    """Patches, prefix tokens before them, and positions: images (B, channels, H, W) -> tokens.

    Args:
        patches: maps images to the first map (B, H', W', C).
        dim: channels C.
        position: adds positions to all tokens; None for none.
        num_prefix_tokens: learned tokens P before those of the map.
    """

    def __init__(
        self, patches: nn.Module, dim: int, position: PositionEmbedding | None = None, num_prefix_tokens: int = 1
    ) -> None:
        super().__init__()
        self.patches = patches
        self.class_token: nn.Parameter | None = None
        if num_prefix_tokens > 0:
            self.class_token = nn.Parameter(trunc_normal_(torch.zeros(1, num_prefix_tokens, dim), std=0.02))
        self.position = position

    def forward(self, x: Tensor) -> Tokens:
        """(B, channels, H, W) -> tokens."""
        x = self.patches(x)
        height, width = x.shape[1], x.shape[2]
        tokens = x.flatten(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), tokens], dim=1)
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


@register_notrace_module  # the layers inside depend on the size of the map
class TokenBlock(TransformerBlock):
    """The residual block around attention and an MLP that may know the size of the map."""

    def forward(self, tokens: Tokens) -> Tokens:  # type: ignore[override]
        """Tokens -> tokens."""
        x = tokens.x
        mixer = self.attn
        assert mixer is not None
        x = x + self.drop_path1(mixer.forward_tokens(self.norm1(x), tokens.height, tokens.width))  # type: ignore[operator]
        x = x + self.drop_path2(self.mlp.forward_tokens(self.norm2(x), tokens.height, tokens.width))  # type: ignore[operator]
        return Tokens(x, tokens.height, tokens.width, tokens.kept)


class TokenStage(Stage):
    """Blocks of tokens; nothing comes before them.

    Args:
        downsample: None.
        blocks: map tokens to tokens.
    """

    def __init__(self, downsample: None, blocks: Sequence[nn.Module]) -> None:
        super().__init__(downsample, blocks)
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
    """A linear layer on a prefix token, or on pooled tokens: (B, T, C) -> (B, num_classes).

    Args:
        dim: channels C.
        num_classes: classes; 0 for no layer.
        pool_type: `token` for the first prefix token, `avg`, `max`, `avgmax` of the map's tokens, or an empty string
            for not at all.
        drop_rate: dropout before the layer.
        num_prefix_tokens: P.

    Raises:
        ValueError: `token` without a prefix token.
    """

    def __init__(
        self, dim: int, num_classes: int, pool_type: str = "token", drop_rate: float = 0.0, num_prefix_tokens: int = 1
    ) -> None:
        super().__init__()
        self.num_features = dim
        self.num_prefix_tokens = num_prefix_tokens
        self.drop = nn.Dropout(drop_rate)
        self.reset(num_classes, pool_type)

    def reset(self, num_classes: int, pool_type: str | None = None) -> None:
        """Replaces the layer, and the pooling unless None."""
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        if pool_type == "token" and self.num_prefix_tokens == 0:
            raise ValueError("global_pool must be avg, max, avgmax or an empty string: there is no prefix token")
        if pool_type is not None:
            self.pool_type = pool_type

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, T, C) -> (B, num_classes), or the input of the layer."""
        x = self.drop(global_pool_nlc(x, pool_type=self.pool_type, num_prefix_tokens=self.num_prefix_tokens))
        return x if pre_logits else self.fc(x)


class IsotropicTokens(Isotropic):
    """Prefix tokens and one map through all stages; `forward_features` gives tokens (B, P + H * W, C).

    Args:
        stem: a `TokenStem`.
        stages: of tokens.
        num_prefix_tokens: P, as many as the stem adds.
        global_pool: as in `TokenHead`; None for its `token`, or `avg` without prefix tokens.
        kwargs: of `Isotropic`.
    """

    def __init__(
        self,
        stem: TokenStem,
        stages: Sequence[Stage],
        *,
        num_prefix_tokens: int = 1,
        global_pool: str | None = None,
        **kwargs: Any,
    ) -> None:
        if global_pool is None:
            global_pool = "token" if num_prefix_tokens > 0 else "avg"

        def head(dim: int, num_classes: int, pool_type: str, drop_rate: float) -> nn.Module:
            return TokenHead(dim, num_classes, pool_type, drop_rate, num_prefix_tokens)

        super().__init__(stem, stages, head_layer=head, global_pool=global_pool, **kwargs)
        self.num_prefix_tokens = num_prefix_tokens
        self.stages = nn.ModuleList(stages)  # type: ignore[assignment]

    def forward_features(self, x: Tensor) -> Tensor:
        """Images (B, in_chans, H, W) -> tokens (B, P + H * W, C), normalized, prefix tokens first."""
        tokens = self.stem(x)
        for stage in self.stages:
            tokens = stage(tokens)
        return self._finish(tokens)

    def _map(self, x: Tokens) -> Tensor:  # type: ignore[override]
        """The map of tokens (B, H, W, C), zeros where a token was left out."""
        of_map, kept = x.x[:, self.num_prefix_tokens :], x.kept
        if kept is not None:
            whole = of_map.new_zeros(of_map.shape[0], x.height * x.width, of_map.shape[2])
            of_map = whole.scatter(1, kept.unsqueeze(2).expand(-1, -1, of_map.shape[2]), of_map)
        return of_map.reshape(of_map.shape[0], x.height, x.width, -1)

    def _finish(self, x: Tokens) -> Tensor:  # type: ignore[override]
        return self.norm(x.x)
