"""The attention layers of NATTEN 0.14.5 to 0.15: a table of biases by default, and padding of small maps.

Source: SHI-Labs/NATTEN, releases 0.14.5 to 0.15.1.
"""

from __future__ import annotations

from .modules import Layer


class ClassicLayer(Layer):
    """The constructor of NATTEN 0.14.5 to 0.15.

    Args:
        dim, num_heads, kernel_size, dilation, qkv_bias, qk_scale, attn_drop, proj_drop: see `Layer`.
        bias: whether there is a table of biases.

    Raises:
        ValueError: the kernel size is even or 1, or the dilation is below 1.
    """

    pads = True

    def __init__(
        self,
        dim: int,
        num_heads: int,
        kernel_size: int,
        dilation: int | None = 1,
        bias: bool = True,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
    ) -> None:
        if kernel_size < 3 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and at least 3 before NATTEN 0.17, got {kernel_size}")
        if dilation is not None and dilation < 1:
            raise ValueError(f"dilation must be at least 1, got {dilation}")
        super().__init__(
            dim,
            num_heads,
            kernel_size,
            dilation=dilation or 1,
            table=bias,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
        )
        # numbers, as programs of that time read them
        self.kernel_size = kernel_size
        self.dilation = dilation or 1
        self.window_size: int | None = kernel_size * self.dilation


class NeighborhoodAttention1D(ClassicLayer):
    """Neighborhood attention of a sequence (B, L, C), as in NATTEN 0.14.5 to 0.15."""

    axes = 1


class NeighborhoodAttention2D(ClassicLayer):
    """Neighborhood attention of a map (B, H, W, C), as in NATTEN 0.14.5 to 0.15."""

    axes = 2
