"""Window attention under test: the stages of Swin, and their peers."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from attnzoo.kernels import window_attention
from attnzoo.kernels.intervals.geometry import AxisGeometry

from .interval_launches import Stage, attention, classes, every, whole_windows
from .operators import Function, NamedLaunch, Operator, Peer, Shape
from .window_peers import flex, sdpa, sdpa_without_copies, timm_block

# FlexAttention builds its block mask from a mask of all pairs
LARGEST_FLEX_MAP = 20000
NOTES = [
    "Window 7x7, width 32, q, k, v packed as a projection returns them, (B, H, W, 3, heads, width), with a bias table; "
    "in training and in the backward pass, both require gradients. Maps have the size to which Swin pads them.",
    "timm is the attention of SwinTransformerBlock with fused attention and its projections replaced by identities. It "
    "rolls and partitions its input of C channels, and gets the projected q, k, v of these windows; ours partitions q, "
    "k and v, which are three times the channels. timm uses its own shift mask of -100.",
    "sdpa shifts and partitions q, k and v, adds bias and mask, and reverses the partition; 'sdpa, no copies' gets the "
    "windows and the sum of bias and mask, and leaves its output in windows.",
]


@dataclass(frozen=True, kw_only=True)
class WindowShape(Shape):
    """A map and its windows."""

    window: int = 7
    shift: int = 0

    @property
    def detail(self) -> str:
        """The shift, and the window if it is not 7."""
        window = f"window {self.window} " if self.window != 7 else ""
        return f"{window}shift {self.shift}" if self.shift else window.strip()

    @property
    def keys(self) -> int:
        """Number of keys of a query."""
        return self.window**2

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """q, k and v as a projection packs them, (B, H, W, 3, h, D), and the bias table."""
        packed = self.batch, *self.size, 3, self.heads, self.width
        table = self.heads, 2 * self.window - 1, 2 * self.window - 1
        return [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for shape in (packed, table)]

    def call(self, backend: str | None) -> Function:
        """The operator."""

        def attend(qkv: Tensor, bias: Tensor) -> Tensor:
            q, k, v = qkv.unbind(3)
            return window_attention(q, k, v, self.window, shift=self.shift, bias=bias, backend=backend)

        return attend


def random_shape(generator: random.Random) -> WindowShape:
    """Random windows on a small map."""
    window = generator.randint(2, 9)
    return WindowShape(
        size=(generator.randint(window, 40), generator.randint(window, 40)),
        heads=generator.randint(1, 4),
        batch=generator.randint(1, 3),
        width=generator.choice((8, 16, 24, 32, 64)),
        window=window,
        shift=generator.randint(0, window - 1),
    )


def cpu_peers(shape: WindowShape, is_training: bool) -> dict[str, Peer]:
    """timm's block, and scaled_dot_product_attention on windows."""
    device = torch.device("cpu")
    return {"timm": timm_block(shape, device), "sdpa": Peer(functools.partial(sdpa, shape, device))}


def cuda_peers(shape: WindowShape, device: torch.device) -> dict[str, Peer]:
    """FlexAttention, timm, and scaled_dot_product_attention on windows with and without the time of its copies."""
    peers = {
        "sdpa": Peer(functools.partial(sdpa, shape, device)),
        "sdpa, no copies": sdpa_without_copies(shape, device),
        "timm": timm_block(shape, device),
    }
    if shape.size[0] * shape.size[1] <= LARGEST_FLEX_MAP:
        peers["compiled flex"] = Peer(functools.partial(flex, shape, device))
    return peers


def stages() -> list[WindowShape]:
    """The stages of Swin, with and without shift; a map of one window has no shift."""
    shapes = []
    for image in (224, 384, 512, 1024):
        for heads, step in zip((3, 6, 12, 24), (4, 8, 16, 32), strict=True):
            length = -(-image // step // 7) * 7
            for shift in (0, 3) if length > 7 else (0,):
                shapes += [
                    WindowShape(size=(length, length), heads=heads, batch=batch, image=image, shift=shift)
                    for batch in (128, 32, 1)
                ]
    return shapes


def launches(architecture: str) -> list[NamedLaunch]:
    """Launches for every class of shapes: Swin's windows, which one program holds, and larger windows."""
    whole = Stage("56x56 window 7 shift 3", 56, AxisGeometry(7, is_window=True, is_shifted=True), 3)
    others = [
        Stage("56x56 window 7", 56, AxisGeometry(7, is_window=True)),
        Stage("64x64 window 8", 64, AxisGeometry(8, is_window=True)),
        Stage("56x56 window 4 shift 2", 56, AxisGeometry(4, is_window=True, is_shifted=True), 2),
    ]
    large = Stage("64x64 window 16 shift 8", 64, AxisGeometry(16, is_window=True, is_shifted=True), 8)
    larger = [
        Stage("48x48 window 12", 48, AxisGeometry(12, is_window=True)),
        Stage("64x64 window 32", 64, AxisGeometry(32, is_window=True)),
    ]
    return [
        *every([*classes(whole), *others], whole_windows, architecture),
        *every([*classes(large), *larger], attention, architecture),
    ]


OPERATOR = Operator(
    name="window",
    function=window_attention,
    cpu_shapes=[
        WindowShape(
            size=(length, length), heads=heads, batch=batch, shift=shift, wanted_forward=goal, wanted_training=goal
        )
        for length, heads in ((56, 3), (28, 6), (14, 12), (7, 24))
        for batch in (1, 8)
        for shift, goal in ((0, 1.0), (3, 0.85))
        if length > 7 or shift == 0
    ],
    cuda_shapes=stages(),
    random_shape=random_shape,
    cpu_peers=cpu_peers,
    cuda_peers=cuda_peers,
    goal_peer="timm",
    notes=NOTES,
    launches=launches,
)
