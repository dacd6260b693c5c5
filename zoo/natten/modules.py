"""The attention layers of NATTEN: one layer, and the constructor, names and defaults of each release.

Shape legend: B batch, S the size of a map (H, W) or of a sequence (L), C channels, h heads, D = C / h.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attnzoo.kernels import neighborhood_attention

from .operators import Causal, Size, no_third_axis, scores, sums


class Layer(nn.Module):
    """Neighborhood attention (B, S, C) -> (B, S, C) with projections `qkv` and `proj`, and a table `rpb` or None.

    Attributes:
        axes: 1 for sequences, 2 for maps.
        pads: whether a map smaller than kernel_size * dilation is padded with zeros, which are attended to.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        kernel_size, dilation, stride, is_causal: one for all axes or one per axis.
        table: whether there is a table of biases.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        qk_scale: factor of the scores; None, or 0 as in NATTEN, for D ** -0.5.
        attn_drop: dropout rate of the attention weights.
        proj_drop: dropout rate after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or an argument has a wrong number of values.
    """

    axes: ClassVar[int]
    pads: ClassVar[bool] = False

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: Size,
        *,
        dilation: Size = 1,
        stride: Size = 1,
        is_causal: Causal = False,
        table: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = qk_scale or self.head_dim**-0.5
        self.kernel_size: Any = self._per_axis("kernel_size", kernel_size)
        self.dilation: Any = self._per_axis("dilation", 1 if dilation is None else dilation)
        self.stride: Any = self._per_axis("stride", 1 if stride is None else stride)
        self.is_causal: Any = self._per_axis("is_causal", False if is_causal is None else is_causal)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        biases = torch.zeros(num_heads, *(2 * kernel - 1 for kernel in self.kernel_size))
        self.rpb: nn.Parameter | None = nn.Parameter(nn.init.trunc_normal_(biases, std=0.02)) if table else None
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, S, C) -> (B, S, C)."""
        if x.ndim != self.axes + 2:
            layout = "(batch, length, channels)" if self.axes == 1 else "(batch, rows, columns, channels)"
            raise ValueError(f"{type(self).__name__} takes {layout}, got {tuple(x.shape)}")
        size = x.shape[1:-1]
        x = self._padded(x)
        # (B, S, 3C) -> three of (B, S, h, D)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.num_heads, self.head_dim)).unbind(-3)
        x = self._attend(q, k, v, self._dilation(size)).flatten(-2)
        if self.pads:
            for axis, length in enumerate(size):
                x = x.narrow(axis + 1, 0, length)
        out: Tensor = self.proj_drop(self.proj(x))
        return out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, dilation: Any) -> Tensor:
        """(B, S, h, D) -> (B, S, h, D)."""
        if self.training and self.attn_drop.p > 0:
            # the weights must exist to be dropped
            q, k, v = (x.movedim(-2, 1) for x in (q * self.scale, k, v))
            window = self.kernel_size, dilation, self.is_causal
            weights = scores(self.axes, q, k, *window, rpb=self.rpb, stride=self.stride).softmax(-1)
            return sums(self.axes, self.attn_drop(weights), v, *window, stride=self.stride).movedim(1, -2)
        return neighborhood_attention(
            q,
            k,
            v,
            self.kernel_size,
            dilation=dilation,
            stride=self.stride,
            is_causal=self.is_causal,
            bias=self.rpb,
            scale=self.scale,
        )

    def _padded(self, x: Tensor) -> Tensor:
        """Pads (B, S, C) at the ends of its axes to the size of a window, in releases that do."""
        if not self.pads:
            return x
        size = x.shape[1:-1]
        kernels, dilations = (
            self._per_axis(name, value)
            for name, value in (("kernel_size", self.kernel_size), ("dilation", self._dilation(size)))
        )
        missing = [max(k * d - n, 0) for k, d, n in zip(kernels, dilations, size, strict=True)]
        if not any(missing):
            return x
        return F.pad(x, (0, 0, *(side for count in reversed(missing) for side in (0, count))))

    def _dilation(self, size: Sequence[int]) -> Any:
        """Returns the dilation on a map of this size."""
        return self.dilation

    def _per_axis(self, name: str, value: Any) -> tuple[Any, ...]:
        values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * self.axes
        if len(values) != self.axes:
            raise ValueError(f"{name} must be one value or {self.axes}, got {len(values)}")
        return values

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        if self.rpb is None and f"{prefix}rpb" in state_dict:
            warnings.warn(
                f"{prefix}rpb is a table of biases, and this layer was made without one. Layers have one by default "
                "before NATTEN 0.17: call attnzoo.natten.install('0.14.6'), or pass rel_pos_bias=True",
                stacklevel=2,
            )
        super()._load_from_state_dict(state_dict, prefix, *others)

    def extra_repr(self) -> str:
        """Returns the settings shown in the module's repr."""
        return (
            f"head_dim={self.head_dim}, num_heads={self.num_heads}, kernel_size={self.kernel_size}, "
            f"dilation={self.dilation}, is_causal={self.is_causal}, has_bias={self.rpb is not None}"
        )


class _Layer(Layer):
    """The constructor of NATTEN 0.17.

    Args:
        dim, num_heads, kernel_size, dilation, is_causal, qkv_bias, qk_scale, attn_drop, proj_drop, stride: see `Layer`.
        rel_pos_bias: whether there is a table of biases.
        use_experimental_ops: has no effect.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: Size,
        dilation: Size = 1,
        is_causal: Causal = False,
        rel_pos_bias: bool = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        use_experimental_ops: bool = False,
        *,
        stride: Size = 1,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            kernel_size,
            dilation=dilation,
            stride=stride,
            is_causal=is_causal,
            table=rel_pos_bias,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )


class NeighborhoodAttention1D(_Layer):
    """Neighborhood attention of a sequence (B, L, C), as in NATTEN 0.17."""

    axes = 1


class NeighborhoodAttention2D(_Layer):
    """Neighborhood attention of a map (B, H, W, C), as in NATTEN 0.17."""

    axes = 2


class NeighborhoodAttention3D:
    """Raises NotImplementedError."""

    def __init__(self, *args: Any, **more: Any) -> None:
        no_third_axis("NeighborhoodAttention3D")
