"""Isotropic networks: the same map size and width in all blocks, with or without prefix tokens.

There are no stages of different map sizes. Instead, the blocks are grouped into stages by `depths`, and the outputs of
these stages are the features. Stages of `Isotropic` exchange maps (B, H, W, C). Stages of `IsotropicTokens` exchange
`Tokens`, with prefix tokens such as a class token before the tokens of the map. Attention and MLP of tokens are called
with `forward_tokens(x, height, width)`, because some of them need the size of the map.

Shape legend: B batch, H W map, C channels, P prefix tokens, N tokens of the map that are kept, T = P + N.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

import torch
from timm.layers import global_pool_nlc, register_notrace_module, trunc_normal_
from torch import Tensor, nn

from attnzoo.blocks import Mlp, PositionEmbedding, SelfAttention, TransformerBlock, attended, linear

from .pyramid import Pyramid, Stage
from .recomputation import checkpointed_sequence


class Isotropic(Pyramid):
    """A network whose blocks all have the same map size.

    Args:
        stem: maps images to the first map, or to tokens.
        stages: stages without downsamplers.
        dim: channels C.
        patch_size: pixels per side of a patch.
        norm: applied to the last stage's output.
        kwargs: `in_chans`, `num_classes`, `global_pool`, `drop_rate` and the other arguments of `Pyramid`.
    """

    def __init__(
        self, stem: nn.Module, stages: Sequence[Stage], *, dim: int, patch_size: int, norm: nn.Module, **kwargs: Any
    ) -> None:
        count = len(stages)
        super().__init__(stem, stages, widths=[dim] * count, reductions=[patch_size] * count, norm=norm, **kwargs)


class Tokens(NamedTuple):
    """Tokens and the size of their map.

    Attributes:
        x: (B, T, C), prefix tokens first.
        height, width: size of the map.
        kept: (B, N) row-major indices of the map tokens that are kept; None if all are kept, in order. A block that
            drops tokens sets it. Attention that needs the whole map cannot come after such a block.
    """

    x: Tensor
    height: int
    width: int
    kept: Optional[Tensor] = None  # noqa: UP045  (TorchScript supports no other union in a named tuple)


@register_notrace_module  # positions depend on the size of the map
class TokenStem(nn.Module):
    """Patch embedding, prefix tokens and positions: images (B, channels, H, W) -> tokens.

    Args:
        patches: maps images to the first map (B, H', W', C).
        dim: channels C.
        position: position embedding of all tokens; None for none.
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
    """Attention over all tokens, also with the interface of attention that needs the size of the map."""

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.forward(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        # (B, T, 3C) -> (3, B, h, T, D)
        qkv = linear(self.qkv, x).unflatten(2, (3, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4)
        return self.proj_drop(linear(self.proj, attended(qkv[0], qkv[1], qkv[2])))


class PlainMlp(Mlp):
    """The MLP of every token, with the interface of an MLP that needs the size of the map."""

    def forward_tokens(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, T, C) -> (B, T, C)."""
        return self.forward(x)


@register_notrace_module  # the layers inside depend on the size of the map
class TokenBlock(TransformerBlock):
    """The residual block around attention and an MLP that get the size of the map."""

    def forward(self, tokens: Tokens) -> Tokens:  # type: ignore[override]
        """Tokens -> tokens."""
        x = tokens.x
        mixer = self.attn
        assert mixer is not None
        x = x + self.drop_path1(mixer.forward_tokens(self.norm1(x), tokens.height, tokens.width))  # type: ignore[operator]
        x = x + self.drop_path2(self.mlp.forward_tokens(self.norm2(x), tokens.height, tokens.width))  # type: ignore[operator]
        return Tokens(x, tokens.height, tokens.width, tokens.kept)


class TokenStage(Stage):
    """A stage of token blocks, without a downsampler.

    Args:
        downsample: None.
        blocks: modules that map tokens to tokens.
    """

    def __init__(self, downsample: None, blocks: Sequence[nn.Module]) -> None:
        super().__init__(downsample, blocks)
        # in TorchScript a `Sequential` takes tensors only
        self.blocks = nn.ModuleList(blocks)  # type: ignore[assignment]

    def forward(self, tokens: Tokens) -> Tokens:  # type: ignore[override]
        """Tokens -> tokens."""
        if self.grad_checkpointing and not torch.jit.is_scripting():
            return checkpointed_sequence(self.blocks, tokens)
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class TokenHead(nn.Module):
    """A linear layer on a prefix token, or on pooled tokens: (B, T, C) -> (B, num_classes).

    Args:
        dim: channels C.
        num_classes: classes; 0 for no layer.
        pool_type: `token` for the first prefix token, `avg`, `max` or `avgmax` of the map's tokens, or an empty string
            for no pooling.
        drop_rate: dropout rate before the layer.
        num_prefix_tokens: number of prefix tokens P.

    Raises:
        ValueError: `pool_type` is `token` without prefix tokens.
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
        """Replaces the layer, and the pooling unless `pool_type` is None."""
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()
        if pool_type == "token" and self.num_prefix_tokens == 0:
            raise ValueError("global_pool must be avg, max, avgmax or an empty string: there is no prefix token")
        if pool_type is not None:
            self.pool_type = pool_type

    def forward(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, T, C) -> (B, num_classes), or the input of the layer."""
        x = self.pooled(x)
        return x if pre_logits else self.fc(x)

    def pooled(self, x: Tensor) -> Tensor:
        """(B, T, C) -> the input of the layer (B, C); without pooling the tokens."""
        return self.drop(global_pool_nlc(x, pool_type=self.pool_type, num_prefix_tokens=self.num_prefix_tokens))


class IsotropicTokens(Isotropic):
    """An isotropic network with prefix tokens; `forward_features` returns tokens (B, P + H * W, C).

    Args:
        stem: a `TokenStem`.
        stages: stages of tokens.
        num_prefix_tokens: number P of prefix tokens that the stem adds.
        global_pool: `pool_type` of `TokenHead`; None for `token`, or `avg` without prefix tokens.
        kwargs: arguments of `Isotropic`.
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
        """Returns the map of the tokens (B, H, W, C), with zeros for dropped tokens."""
        of_map, kept = x.x[:, self.num_prefix_tokens :], x.kept
        if kept is not None:
            whole = of_map.new_zeros(of_map.shape[0], x.height * x.width, of_map.shape[2])
            of_map = whole.scatter(1, kept.unsqueeze(2).expand(-1, -1, of_map.shape[2]), of_map)
        return of_map.reshape(of_map.shape[0], x.height, x.width, -1)

    def _finish(self, x: Tokens) -> Tensor:  # type: ignore[override]
        return self.norm(x.x)
