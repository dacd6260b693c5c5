"""Window attention as a token mixer: the shifted windows of Swin, and the stripes of CSWin.

Shape legend: B batch, H W map, C channels, h heads, D = C / h, w window.
"""

# no `from __future__ import annotations`: TorchScript needs the types themselves
import torch
import torch.nn.functional as F
from timm.layers import register_notrace_module, trunc_normal_
from torch import Tensor, nn

from attnzoo.kernels import window_attention

from .convolution import depthwise


@register_notrace_module  # whether to pad and to shift depends on the size of the map
class WindowAttention(nn.Module):
    """Multi-head self-attention within square windows, which may be shifted by half a window.

    A map that windows do not divide is padded with zeros at the bottom and right, before the projection to queries,
    keys and values, and cropped again: the padding is attended to, as in the official code for dense prediction. Where
    the smaller side is no longer than a window there is no shift.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h.
        window_size: side w of a window.
        shifted: whether windows are shifted by w // 2.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`.

    Source: Swin Transformer, arXiv 2103.14030, section 3.2.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int = 7,
        shifted: bool = False,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ValueError(f"dim must be a multiple of num_heads, got {dim} channels for {num_heads} heads")
        self.num_heads = num_heads
        self.window_size = window_size
        self.shifted = shifted
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpb = nn.Parameter(
            trunc_normal_(torch.zeros(num_heads, 2 * window_size - 1, 2 * window_size - 1), std=0.02)
        )
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        shift = self.window_size // 2 if self.shifted and min(height, width) > self.window_size else 0
        x = _pad(x, self.window_size, self.window_size)
        # (B, H, W, 3C) -> three of (B, H, W, h, D)
        q, k, v = self.qkv(x).unflatten(3, (3, self.num_heads, -1)).unbind(3)
        # (B, padded H, padded W, h, D) -> (B, H, W, C)
        out = self._attend(q, k, v, shift)[:, :height, :width].flatten(3)
        return self.proj_drop(self.proj(out))

    # TorchScript cannot read the operator; it calls it
    @torch.jit.ignore
    def _attend(self, q: Tensor, k: Tensor, v: Tensor, shift: int) -> Tensor:
        return window_attention(q, k, v, self.window_size, shift=shift, bias=self.rpb)

    def extra_repr(self) -> str:
        """What the module's children do not show."""
        return f"num_heads={self.num_heads}, window_size={self.window_size}, shifted={self.shifted}"


@register_notrace_module  # stripes run the length of the map
class CrossShapedAttention(nn.Module):
    """Multi-head self-attention within stripes: half of the heads in upright ones, half in level ones.

    A depthwise convolution of the values, within each stripe, is added. A map that stripes do not divide is padded with
    zeros at the bottom and right, before the projection to queries, keys and values, and cropped again.

    Args:
        dim: channels C, a multiple of num_heads.
        num_heads: heads h, even where there are stripes.
        stripe_width: width of the stripes, which are as long as the map; None for one stripe, the whole map.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        proj_drop: dropout after the output projection.

    Raises:
        ValueError: `dim` is not a multiple of `num_heads`, or heads cannot be halved.

    Source: CSWin Transformer, arXiv 2107.00652, section 3.2 and 3.3.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        stripe_width: int | None = 7,
        qkv_bias: bool = True,
        proj_drop: float = 0.0,
    ) -> None:
        super().__init__()
        branches = 1 if stripe_width is None else 2
        if dim % num_heads or num_heads % branches:
            raise ValueError(
                f"dim must be a multiple of num_heads, and num_heads even for stripes, got {dim} channels for "
                f"{num_heads} heads"
            )
        self.num_heads = num_heads
        self.stripe_width = stripe_width
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.dwc = nn.ModuleList(depthwise(dim // branches, 3) for _ in range(branches))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        height, width = x.shape[1], x.shape[2]
        if self.stripe_width is not None:
            x = _pad(x, self.stripe_width, self.stripe_width)
        # (B, H, W, 3C) -> three of (B, H, W, h, D)
        q, k, v = self.qkv(x).unflatten(3, (3, self.num_heads, -1)).unbind(3)
        # (B, padded H, padded W, C) -> (B, H, W, C)
        out = self._attend(q, k, v)[:, :height, :width]
        return self.proj_drop(self.proj(out))

    # TorchScript cannot read the operator; it calls it
    @torch.jit.ignore
    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys and values (B, H, W, h, D) -> (B, H, W, C)."""
        height, width = q.shape[1], q.shape[2]
        stripes = [(height, self.stripe_width or width), (self.stripe_width or height, width)]
        heads = self.num_heads // len(self.dwc)
        out = []
        for i, (stripe, dwc) in enumerate(zip(stripes, self.dwc)):  # noqa: B905
            own = slice(i * heads, (i + 1) * heads)
            attended = window_attention(q[..., own, :], k[..., own, :], v[..., own, :], stripe).flatten(3)
            out.append(attended + _within(dwc, v[..., own, :].flatten(3), stripe))
        return torch.cat(out, 3) if len(out) > 1 else out[0]

    def extra_repr(self) -> str:
        """What the module's children do not show."""
        return f"num_heads={self.num_heads}, stripe_width={self.stripe_width}"


def _pad(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, H, W, C) -> with sides that are multiples, zeros at the bottom and right."""
    missing_rows, missing_columns = -x.shape[1] % rows, -x.shape[2] % columns
    if missing_rows > 0 or missing_columns > 0:
        x = F.pad(x, (0, 0, 0, missing_columns, 0, missing_rows))
    return x


def _within(layer: nn.Module, x: Tensor, window: tuple[int, int]) -> Tensor:
    """A layer of maps (B, H, W, C), applied to each window by itself."""
    batch, height, width, channels = x.shape
    rows, columns = window
    if (rows, columns) == (height, width):
        return layer(x)
    # (B, H / rows, rows, W / columns, columns, C) -> (windows, rows, columns, C)
    cut = x.unflatten(1, (-1, rows)).unflatten(3, (-1, columns)).transpose(2, 3)
    out = layer(cut.reshape(-1, rows, columns, channels)).reshape(cut.shape)
    return out.transpose(2, 3).reshape(batch, height, width, channels)
