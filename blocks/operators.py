"""Wrappers of the operators of `attnzoo.kernels` for layers: TorchScript cannot compile them and calls Python.

Shape legend: B batch, H W map, h heads, D width of queries and keys, E width of values, P regions.
"""

# no `from __future__ import annotations`: TorchScript needs evaluated annotations
import torch
from torch import Tensor

from attnzoo.kernels import (
    halo_attention,
    packed_neighborhood_attention,
    packed_window_attention,
    routed_attention,
    selective_scan,
    window_attention,
)
from attnzoo.kernels.selective_scan.order import by_step


@torch.jit.ignore
def attend_neighborhood(
    qkv: Tensor,
    kernel_size: tuple[int, int],
    dilation: tuple[int, int],
    stride: tuple[int, int],
    is_causal: tuple[bool, bool],
    bias: Tensor | None,
    padding: tuple[Tensor, Tensor],
) -> Tensor:
    """`packed_neighborhood_attention`: qkv (B, H, W, 3, h, D) -> (B, H, W, h, D)."""
    return packed_neighborhood_attention(
        qkv, kernel_size, dilation=dilation, stride=stride, is_causal=is_causal, bias=bias, padding=padding
    )


@torch.jit.ignore
def attend_windows(
    q: Tensor, k: Tensor, v: Tensor, window_size: tuple[int, int], shift: tuple[int, int], bias: Tensor | None
) -> Tensor:
    """`window_attention`: q, k and v (B, H, W, h, D) -> (B, H, W, h, D)."""
    return window_attention(q, k, v, window_size, shift=shift, bias=bias)


@torch.jit.ignore
def attend_packed_windows(
    qkv: Tensor, window_size: tuple[int, int], shift: tuple[int, int], bias: Tensor | None
) -> Tensor:
    """`packed_window_attention`: qkv (B, H, W, 3, h, D) -> (B, H, W, h, D)."""
    return packed_window_attention(qkv, window_size, shift=shift, bias=bias)


@torch.jit.ignore
def attend_regions(q: Tensor, k: Tensor, v: Tensor, routes: Tensor, regions: tuple[int, int], scale: float) -> Tensor:
    """`routed_attention`: q, k and v (B, H, W, h, D), routes (B, P, topk) -> (B, H, W, h, D)."""
    return routed_attention(q, k, v, routes, regions, scale=scale)


@torch.jit.ignore
def attend_halo(
    q: Tensor, k: Tensor, v: Tensor, block_size: int, halo: int, stride: int, rel_rows: Tensor, rel_columns: Tensor
) -> Tensor:
    """`halo_attention`: q (B, H', W', h, D), k (B, H, W, h, D) and v (B, H, W, h, E) -> (B, H', W', h, E)."""
    return halo_attention(q, k, v, block_size, halo, stride=stride, rel_rows=rel_rows, rel_columns=rel_columns)


@torch.jit.ignore
def scan_routes(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, routes: Tensor) -> Tensor:
    """`selective_scan`: u (B, L, h or 1, E), .., routes (h, L) -> (B, L, h, E)."""
    return selective_scan(u, delta, A, B, C, D, routes=routes)


@torch.jit.ignore
def tokens_of_steps(x: Tensor, routes: Tensor) -> Tensor:
    """The tokens (B, L, h or 1, E) in the order in which `scan_routes` visits them, (B, L, h, E)."""
    return by_step(x, routes, routes.shape[0])
