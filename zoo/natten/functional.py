"""`natten.functional` of NATTEN 0.14.6 to 0.17: a call that one of these releases accepts means the same here.

`stride`, which NATTEN has had since 0.20, is an additional keyword.

The halves take queries, keys and values (B, heads, .., width) and weights (B, heads, .., keys), the fused operators (B,
.., heads, width). Queries of the halves are not scaled. Source: SHI-Labs/NATTEN, releases 0.14.6 to 0.17.5.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .operators import Causal, Size, attention, no_third_axis, scores, sums


def natten1dqkrpb(query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int) -> Tensor:
    """Scores with a table of biases, (B, heads, L, D) -> (B, heads, L, k)."""
    return scores(1, query, key, kernel_size, dilation, rpb=rpb)


def natten2dqkrpb(query: Tensor, key: Tensor, rpb: Tensor | None, kernel_size: int, dilation: int) -> Tensor:
    """Scores with a table of biases, (B, heads, H, W, D) -> (B, heads, H, W, k * k)."""
    return scores(2, query, key, kernel_size, dilation, rpb=rpb)


def na1d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Size,
    dilation: Size = 1,
    additional_keys: Tensor | None = None,
    is_causal: Causal = False,
    rpb: Tensor | None = None,
    *,
    stride: Size = 1,
) -> Tensor:
    """Scores, (B, heads, L, D) -> (B, heads, L, k + n), with n additional keys (B, heads, n, D)."""
    return scores(1, query, key, kernel_size, dilation, is_causal, rpb, additional_keys, stride)


def na2d_qk(
    query: Tensor,
    key: Tensor,
    kernel_size: Size,
    dilation: Size = 1,
    additional_keys: Tensor | None = None,
    is_causal: Causal = False,
    rpb: Tensor | None = None,
    *,
    stride: Size = 1,
) -> Tensor:
    """Scores, (B, heads, H, W, D) -> (B, heads, H, W, kh * kw + n), with n additional keys (B, heads, n, D)."""
    return scores(2, query, key, kernel_size, dilation, is_causal, rpb, additional_keys, stride)


def na1d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: Size,
    dilation: Size = 1,
    additional_values: Tensor | None = None,
    is_causal: Causal = False,
    *,
    stride: Size = 1,
) -> Tensor:
    """Weighted sums, (B, heads, L, k + n), (B, heads, L, E) -> (B, heads, L, E)."""
    return sums(1, attn, value, kernel_size, dilation, is_causal, additional_values, stride)


def na2d_av(
    attn: Tensor,
    value: Tensor,
    kernel_size: Size,
    dilation: Size = 1,
    additional_values: Tensor | None = None,
    is_causal: Causal = False,
    *,
    stride: Size = 1,
) -> Tensor:
    """Weighted sums, (B, heads, H, W, kh * kw + n), (B, heads, H, W, E) -> (B, heads, H, W, E)."""
    return sums(2, attn, value, kernel_size, dilation, is_causal, additional_values, stride)


def na1d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size: Size,
    dilation: Size,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """`na1d_qk` with a table (heads, 2k-1)."""
    return scores(1, query, key, kernel_size, dilation, rpb=bias, additional_keys=additional_keys)


def na2d_qk_with_bias(
    query: Tensor,
    key: Tensor,
    bias: Tensor | None,
    kernel_size: Size,
    dilation: Size,
    additional_keys: Tensor | None = None,
) -> Tensor:
    """`na2d_qk` with a table (heads, 2kh-1, 2kw-1)."""
    return scores(2, query, key, kernel_size, dilation, rpb=bias, additional_keys=additional_keys)


def na1d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Size,
    dilation: Size = 1,
    is_causal: Causal = False,
    rpb: Tensor | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    xformers_kwargs: dict[str, Any] | None = None,
    *,
    stride: Size = 1,
) -> Tensor:
    """Attention, (B, L, heads, D) -> (B, L, heads, E), also to additional tokens (B, n, heads, .).

    `xformers_kwargs` selects kernels of NATTEN and has no effect.
    """
    return attention(
        1, query, key, value, kernel_size, dilation, is_causal, rpb, scale, additional_keys, additional_values, stride
    )


def na2d(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Size,
    dilation: Size = 1,
    is_causal: Causal = False,
    rpb: Tensor | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    xformers_kwargs: dict[str, Any] | None = None,
    *,
    stride: Size = 1,
) -> Tensor:
    """Attention, (B, H, W, heads, D) -> (B, H, W, heads, E), also to additional tokens (B, n, heads, .).

    `xformers_kwargs` selects kernels of NATTEN and has no effect.
    """
    return attention(
        2, query, key, value, kernel_size, dilation, is_causal, rpb, scale, additional_keys, additional_values, stride
    )


natten1dqk, natten1dav = na1d_qk, na1d_av
natten2dqk, natten2dav = na2d_qk, na2d_av


def _without_third_axis(name: str) -> Any:
    def refuse(*args: Any, **more: Any) -> Tensor:
        no_third_axis(name)

    refuse.__name__ = refuse.__qualname__ = name
    refuse.__doc__ = "Raises NotImplementedError."
    return refuse


natten3dqkrpb, natten3dqk, natten3dav, na3d_qk, na3d_qk_with_bias, na3d_av, na3d = (
    _without_third_axis(name)
    for name in ("natten3dqkrpb", "natten3dqk", "natten3dav", "na3d_qk", "na3d_qk_with_bias", "na3d_av", "na3d")
)
