"""The halves and the whole of neighborhood attention in the layouts of NATTEN, on maps and sequences.

Shape legend: B batch, h heads, S the size of a map (H, W) or of a sequence (L), D width of queries and keys, E width of
values, k keys of a window, n additional tokens that every query attends to.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from attnzoo.kernels import neighborhood_attention, neighborhood_av, neighborhood_qk

Size = int | Sequence[int] | None
Causal = bool | Sequence[bool] | None

_SIZES = {1: "length", 2: "rows, columns"}


def scores(
    axes: int,
    query: Tensor,
    key: Tensor,
    kernel_size: Size,
    dilation: Size,
    is_causal: Causal = False,
    rpb: Tensor | None = None,
    additional_keys: Tensor | None = None,
    stride: Size = 1,
) -> Tensor:
    """Computes the products of each query with the keys of its window, and with additional keys.

    Args:
        axes: 1 for sequences, 2 for maps.
        query, key: (B, h, S, D); queries are not scaled.
        kernel_size, dilation, is_causal, stride: one for all axes or one per axis; None for the default.
        rpb: table (h, 2k-1) or (h, 2kh-1, 2kw-1) that is added to the scores of the window.
        additional_keys: (B, h, n, D).

    Returns:
        (B, h, S, k + n).
    """
    _check(axes, heads_first=True, query=query, key=key)
    _check_same(key, query, "key", "query")
    window = _window(kernel_size, dilation, is_causal, stride)
    found = neighborhood_qk(query.movedim(1, -2), key.movedim(1, -2), **window, bias=rpb, scale=1.0).movedim(-2, 1)
    if additional_keys is None:
        return found
    _check_additional("additional_keys", additional_keys, query)
    products = query.flatten(2, -2) @ additional_keys.mT
    return torch.cat([found, products.unflatten(2, query.shape[2:-1]).to(found.dtype)], -1)


def sums(
    axes: int,
    attn: Tensor,
    value: Tensor,
    kernel_size: Size,
    dilation: Size,
    is_causal: Causal = False,
    additional_values: Tensor | None = None,
    stride: Size = 1,
) -> Tensor:
    """Computes the weighted sum of the values of each query's window, and of additional values.

    Args:
        axes: 1 for sequences, 2 for maps.
        attn: weights (B, h, S, k + n), as from `scores`.
        value: (B, h, S, E).
        kernel_size, dilation, is_causal, stride: as in `scores`.
        additional_values: (B, h, n, E).

    Returns:
        (B, h, S, E).
    """
    _check(axes, heads_first=True, attn=attn, value=value)
    _check_same(value, attn, "value", "attn", but_width=True)
    window = _window(kernel_size, dilation, is_causal, stride)
    more = 0 if additional_values is None else additional_values.shape[-2]
    kernel = window["kernel_size"]
    keys = math.prod(kernel if isinstance(kernel, tuple) else (kernel,) * axes)
    if attn.shape[-1] != keys + more:
        extra = f" and {more} additional values" if more else ""
        raise ValueError(
            f"attn must have a weight for each of the {keys} keys of a window{extra}, got {tuple(attn.shape)}"
        )
    if additional_values is not None:
        _check_additional("additional_values", additional_values, value)
        attn, others = attn.split([keys, more], -1)
    found = neighborhood_av(attn.movedim(1, -2), value.movedim(1, -2), **window).movedim(-2, 1)
    if additional_values is None:
        return found
    return found + (others.flatten(2, -2) @ additional_values).view_as(found)


def attention(
    axes: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: Size,
    dilation: Size,
    is_causal: Causal = False,
    rpb: Tensor | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    stride: Size = 1,
) -> Tensor:
    """Computes neighborhood attention, and attention to additional tokens in the same softmax.

    Args:
        axes: 1 for sequences, 2 for maps.
        query, key, value: (B, S, h, D) and (B, S, h, E).
        kernel_size, dilation, is_causal, stride, rpb: as in `scores`.
        scale: factor of the queries; D ** -0.5 by default.
        additional_keys, additional_values: (B, n, h, D) and (B, n, h, E), both or neither.

    Returns:
        (B, S, h, E).
    """
    _check(axes, heads_first=False, query=query, key=key, value=value)
    _check_same(key, query, "key", "query")
    _check_same(value, query, "value", "query", but_width=True)
    if (additional_keys is None) != (additional_values is None):
        raise ValueError("additional_keys and additional_values must both be given, or neither")
    if additional_keys is None or additional_values is None:
        window = _window(kernel_size, dilation, is_causal, stride)
        return neighborhood_attention(query, key, value, **window, bias=rpb, scale=scale)
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    q, k, v, more_keys, more_values = (
        x.movedim(-2, 1) for x in (query, key, value, additional_keys, additional_values)
    )
    weights = scores(axes, q, k, kernel_size, dilation, is_causal, rpb, more_keys, stride).softmax(-1).to(v.dtype)
    return sums(axes, weights, v, kernel_size, dilation, is_causal, more_values, stride).movedim(1, -2)


def no_third_axis(name: str) -> NoReturn:
    """Raises the error of everything that is three-dimensional."""
    raise NotImplementedError(
        f"{name}: attnzoo.natten has neighborhood attention of one and two dimensions only; "
        "for three dimensions, uninstall it and use NATTEN itself"
    )


def _window(kernel_size: Size, dilation: Size, is_causal: Causal, stride: Size) -> dict[str, Any]:
    """Returns the arguments of the operators of `attnzoo.kernels`; None is the default of a value."""
    given = {"dilation": (dilation, 1), "stride": (stride, 1), "is_causal": (is_causal, False)}
    window = {name: default if value is None else value for name, (value, default) in given.items()}
    window = {name: tuple(value) if isinstance(value, list) else value for name, value in window.items()}
    return {"kernel_size": tuple(kernel_size) if isinstance(kernel_size, list) else kernel_size, **window}


def _check(axes: int, heads_first: bool, **tensors: Tensor) -> None:
    """Checks types and numbers of axes."""
    size = _SIZES[axes]
    layout = f"(batch, heads, {size}, width)" if heads_first else f"(batch, {size}, heads, width)"
    for name, x in tensors.items():
        if not isinstance(x, Tensor):
            raise TypeError(f"{name} must be a tensor {layout}, got {type(x).__name__}")
        if x.is_nested:
            raise NotImplementedError(
                f"{name} is a nested tensor, which attnzoo.natten does not take: use one per size"
            )
        if x.ndim != axes + 3:
            raise ValueError(f"{name} must be {layout}, got {tuple(x.shape)}")


def _check_same(x: Tensor, other: Tensor, name: str, other_name: str, but_width: bool = False) -> None:
    last = -1 if but_width else None
    if x.shape[:last] != other.shape[:last]:
        what = "all sizes but the last" if but_width else "the shape"
        raise ValueError(f"{name} must have {what} of {other_name}, {tuple(other.shape)}, got {tuple(x.shape)}")


def _check_additional(name: str, x: Tensor, other: Tensor) -> None:
    """Checks additional tokens (B, h, n, .) of queries or values (B, h, S, .)."""
    if x.ndim != 4 or (x.shape[:2], x.shape[-1]) != (other.shape[:2], other.shape[-1]):
        wanted = (*other.shape[:2], "any number", other.shape[-1])
        raise ValueError(f"{name} must be (batch, heads, tokens, width) = {wanted}, got {tuple(x.shape)}")
