"""The common part of NATTEN 0.20 and later: fused operators with a stride, plain attention, layers without biases.

Keywords that only choose or tune kernels of NATTEN are accepted and have no effect. Source: SHI-Labs/NATTEN, releases
0.20.0 to 0.21.6.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .modules import Layer
from .operators import Causal, Size, no_third_axis, scores
from .operators import attention as neighborhood

# keywords that choose and tune kernels
TUNING = (
    "attention_kwargs", "backend", "q_tile_shape", "kv_tile_shape", "backward_q_tile_shape", "backward_kv_tile_shape",
    "q_tile_size", "kv_tile_size", "backward_q_tile_size", "backward_kv_tile_size", "backward_kv_splits",
    "backward_use_pt_reduction", "run_persistent_kernel", "kernel_schedule", "torch_compile", "try_fuse_additional_kv",
)  # fmt: skip


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Size,
    stride: Size = 1,
    dilation: Size = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    *,
    return_lse: bool = False,
    **tuning: Any,
) -> Any:
    """Attention, (B, L, heads, D) -> (B, L, heads, E), see `neighborhood_attention_generic`."""
    more = scale, additional_keys, additional_values, return_lse, tuning
    return _attend("na1d", 1, query, key, value, kernel_size, stride, dilation, is_causal, *more)


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Size,
    stride: Size = 1,
    dilation: Size = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    *,
    return_lse: bool = False,
    **tuning: Any,
) -> Any:
    """Attention, (B, H, W, heads, D) -> (B, H, W, heads, E), see `neighborhood_attention_generic`."""
    more = scale, additional_keys, additional_values, return_lse, tuning
    return _attend("na2d", 2, query, key, value, kernel_size, stride, dilation, is_causal, *more)


def neighborhood_attention_generic(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Size,
    stride: Size = 1,
    dilation: Size = 1,
    is_causal: Causal = False,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    *,
    return_lse: bool = False,
    **tuning: Any,
) -> Any:
    """`na1d` or `na2d`, by the number of axes.

    Args:
        query, key, value, kernel_size, stride, dilation, is_causal, scale: as in
            `attnzoo.kernels.neighborhood_attention`.
        additional_keys, additional_values: tokens (B, n, heads, .) that every query attends to as well.
        return_lse: whether the logarithm of the sum of exponentials, (B, .., heads), is returned with the result.
        tuning: keywords of NATTEN without effect, see `TUNING`.

    Raises:
        NotImplementedError: there are three dimensions.
        TypeError: a keyword is unknown.
    """
    if query.ndim == 6:
        no_third_axis("neighborhood_attention_generic")
    more = scale, additional_keys, additional_values, return_lse, tuning
    axes = 1 if query.ndim == 4 else 2
    name = "neighborhood_attention_generic"
    return _attend(name, axes, query, key, value, kernel_size, stride, dilation, is_causal, *more)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    return_lse: bool = False,
    **tuning: Any,
) -> Any:
    """Plain attention, (B, L, heads, D) -> (B, L, heads, E); releases differ in the order of what follows `value`.

    Args:
        query, key, value: (B, L, heads, D), (B, S, heads, D) and (B, S, heads, E).
        is_causal: whether a query attends only to itself and to the keys before it.
        scale: factor of the scores; D ** -0.5 by default.
        return_lse: whether the logarithm of the sum of exponentials, (B, L, heads), is returned with the result.
        tuning: keywords of NATTEN without effect, see `TUNING`.

    Raises:
        TypeError: a keyword is unknown.
    """
    _check_tuning("attention", tuning)
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, scale=scale).transpose(1, 2)
    if not return_lse:
        return out
    products = (q * (q.shape[-1] ** -0.5 if scale is None else scale)) @ k.mT
    if is_causal:
        hidden = torch.ones(products.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        products = products.masked_fill(hidden, -torch.inf)
    return out, products.float().logsumexp(-1).transpose(1, 2)


def merge_attentions(
    outputs: Sequence[Tensor], lse_tensors: Sequence[Tensor], torch_compile: bool = True
) -> tuple[Tensor, Tensor]:
    """Merges attentions of the same queries to different keys into the attention to all of these keys.

    Args:
        outputs: results (B, .., heads, E).
        lse_tensors: their logarithms of the sum of exponentials, (B, .., heads).
        torch_compile: has no effect.

    Returns:
        The result and its logarithm of the sum of exponentials.
    """
    if len(outputs) != len(lse_tensors) or not outputs:
        raise ValueError(f"outputs and lse_tensors must be of the same number, got {len(outputs)}, {len(lse_tensors)}")
    logarithms = torch.stack(list(lse_tensors))
    shares = logarithms.softmax(0).unsqueeze(-1)
    merged = (torch.stack(list(outputs)) * shares).sum(0).to(outputs[0].dtype)
    return merged, logarithms.logsumexp(0)


def _attend(
    name: str,
    axes: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Size,
    stride: Size,
    dilation: Size,
    is_causal: Causal,
    scale: float | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    return_lse: bool,
    tuning: dict[str, Any],
) -> Any:
    _check_tuning(name, tuning)
    window = kernel_size, dilation, is_causal
    out = neighborhood(axes, query, key, value, *window, None, scale, additional_keys, additional_values, stride)
    if not return_lse:
        return out
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    keys = None if additional_keys is None else additional_keys.movedim(-2, 1)
    found = scores(axes, (query * factor).movedim(-2, 1), key.movedim(-2, 1), *window, None, keys, stride)
    return out, found.float().logsumexp(-1).movedim(1, -1)


def _check_tuning(name: str, tuning: dict[str, Any]) -> None:
    unknown = sorted(set(tuning) - set(TUNING))
    if unknown:
        raise TypeError(
            f"{name} has no argument {unknown[0]!r} in attnzoo.natten; without effect are {', '.join(TUNING)}"
        )


class RecentLayer(Layer):
    """The constructor of NATTEN 0.20.1 and later.

    Args:
        embed_dim: channels, a multiple of num_heads.
        num_heads, kernel_size, stride, dilation, is_causal, qkv_bias, qk_scale, proj_drop: see `Layer`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: Size,
        stride: Size = 1,
        dilation: Size = 1,
        is_causal: Causal = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__(
            embed_dim,
            num_heads,
            kernel_size,
            dilation=dilation,
            stride=stride,
            is_causal=is_causal,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            proj_drop=proj_drop,
        )
        self.embed_dim = embed_dim


class NeighborhoodAttention1D(RecentLayer):
    """Neighborhood attention of a sequence (B, L, C), as in NATTEN 0.20.1 and later."""

    axes = 1


class NeighborhoodAttention2D(RecentLayer):
    """Neighborhood attention of a map (B, H, W, C), as in NATTEN 0.20.1 and later."""

    axes = 2


class NamedDim(RecentLayer):
    """The constructor of NATTEN 0.20.0, whose first argument is called `dim`."""

    def __init__(self, dim: int, *args: Any, **more: Any) -> None:
        super().__init__(dim, *args, **more)
