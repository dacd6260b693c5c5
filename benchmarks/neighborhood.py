"""Neighborhood attention under test: the stages of NAT and DiNAT, and their peers."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

import torch
from torch import Tensor

from attnzoo.kernels import neighborhood_attention
from attnzoo.kernels.intervals.geometry import AxisGeometry
from attnzoo.kernels.neighborhood.geometry import Axis

from .interval_launches import Stage, attention, classes, every, halves
from .neighborhood_peers import dense, flex, gather, trial
from .operators import Function, NamedLaunch, Operator, Peer, Shape

# with more tokens, a dense mask takes more than 64 MiB per head on a CPU
LARGEST_DENSE_MAP = 4000
# FlexAttention builds its block mask from a mask of all pairs
LARGEST_FLEX_MAP = 16384
NOTES = [
    "Kernel 7x7, width 32, contiguous q, k, v of (B, H, W, heads, width), with a bias table. In training and in the "
    "backward pass, all four require gradients. Indices and masks are precomputed for every candidate.",
    "On a CPU where page faults are expensive, gather at 56x56 is dominated by fresh memory: the C library returns its "
    "large blocks to the system after each call. Ratios to gather therefore depend on the machine, ratios to trial "
    "much less.",
    "trial is a tiled baseline for eager: tiles of 7 or 8, or the whole group if it has at most 14 ranks; one flat "
    "index_select of tokens for each of q, k, v; scaled_dot_product_attention in inference and batched products in "
    "training.",
]


@dataclass(frozen=True, kw_only=True)
class NeighborhoodShape(Shape):
    """A map and its neighborhoods."""

    kernel: int = 7
    dilation: int = 1
    stride: int = 1
    is_causal: bool = False

    @property
    def detail(self) -> str:
        """The parameters that differ from their defaults."""
        plain = {"kernel": 7, "dilation": 1, "stride": 1, "is_causal": False}
        return " ".join(
            f"{name} {getattr(self, name)}" for name, value in plain.items() if getattr(self, name) != value
        )

    @property
    def axes(self) -> tuple[Axis, Axis]:
        """The neighborhoods of rows and columns."""
        rows, columns = (Axis(n, self.kernel, self.dilation, self.stride, self.is_causal) for n in self.size)
        return rows, columns

    @property
    def keys(self) -> int:
        """Number of keys of a query."""
        return self.kernel**2

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """q, k, v and the bias table."""
        table = self.heads, 2 * self.kernel - 1, 2 * self.kernel - 1
        return [*self.maps(3, dtype, device), torch.randn(table, dtype=dtype, device=device, requires_grad=True)]

    def call(self, backend: str | None) -> Function:
        """The operator."""
        window = {name: getattr(self, name) for name in ("dilation", "stride", "is_causal")}
        return lambda q, k, v, bias: neighborhood_attention(q, k, v, self.kernel, **window, bias=bias, backend=backend)


def random_shape(generator: random.Random) -> NeighborhoodShape:
    """Random neighborhoods on a small map."""
    size = generator.randint(6, 40), generator.randint(6, 40)
    kernel = generator.randint(1, min(9, *size))
    return NeighborhoodShape(
        size=size,
        heads=generator.randint(1, 4),
        batch=generator.randint(1, 3),
        width=generator.choice((8, 16, 24, 32, 64)),
        kernel=kernel,
        dilation=generator.randint(1, min(size) // kernel),
        stride=generator.randint(1, kernel) if generator.random() < 0.3 else 1,
        is_causal=generator.random() < 0.2,
    )


def cpu_peers(shape: NeighborhoodShape, is_training: bool) -> dict[str, Peer]:
    """The trial, gathered keys, and full attention under a mask."""
    peers = {
        "trial": Peer(functools.partial(trial, *shape.axes, is_training)),
        "gather": Peer(functools.partial(gather, *shape.axes)),
    }
    if shape.size[0] * shape.size[1] <= LARGEST_DENSE_MAP:
        peers["dense"] = Peer(functools.partial(dense, *shape.axes))
    return peers


def cuda_peers(shape: NeighborhoodShape, device: torch.device) -> dict[str, Peer]:
    """FlexAttention with a block mask and the bias as score_mod, and full attention under a mask."""
    tokens = shape.size[0] * shape.size[1]
    peers = {}
    if tokens <= LARGEST_FLEX_MAP:
        peers["compiled flex"] = Peer(functools.partial(flex, *shape.axes, device))
    if tokens <= LARGEST_DENSE_MAP:
        peers["dense"] = Peer(functools.partial(dense, *shape.axes, device))
    return peers


def stages() -> list[NeighborhoodShape]:
    """The stages of NAT, without dilation and with the largest one."""
    shapes = []
    for image in (224, 384, 512, 1024):
        for heads, length in zip((2, 4, 8, 16), (image // step for step in (4, 8, 16, 32)), strict=True):
            for dilation in sorted({1, length // 7}):
                shapes += [
                    NeighborhoodShape(size=(length, length), heads=heads, batch=batch, image=image, dilation=dilation)
                    for batch in (128, 32, 1)
                ]
    return shapes


def launches(architecture: str) -> list[NamedLaunch]:
    """Launches for every class of shapes at a 7x7 kernel, and for other geometries at the most common class."""
    plain = Stage("56x56 kernel 7", 56, AxisGeometry(7))
    others = [
        Stage("56x56 kernel 3", 56, AxisGeometry(3)),
        Stage("56x56 kernel 13", 56, AxisGeometry(13)),
        Stage("56x56 kernel 7 dilation 8", 56, AxisGeometry(7, dilation=8)),
        Stage("56x56 kernel 7 stride 4", 56, AxisGeometry(7, stride=4)),
        Stage("56x56 kernel 7 causal", 56, AxisGeometry(7, is_causal=True)),
        Stage("7x7 kernel 7", 7, AxisGeometry(7)),
    ]
    overlock = [Stage(f"28x28 kernel {kernel}", 28, AxisGeometry(kernel)) for kernel in (5, 17)]
    return [
        *every([*classes(plain), *others], attention, architecture),
        *every([*classes(plain), *overlock], halves, architecture),
    ]


def _cpu(size: int, heads: int, forward: float, training: float, batch: int = 1, dilation: int = 1) -> Shape:
    return NeighborhoodShape(
        size=(size, size),
        heads=heads,
        batch=batch,
        dilation=dilation,
        wanted_forward=forward,
        wanted_training=training,
    )


OPERATOR = Operator(
    name="neighborhood",
    function=neighborhood_attention,
    cpu_shapes=[
        _cpu(56, 2, 0.05, 0.13),
        _cpu(56, 2, 0.07, 0.15, batch=8),
        _cpu(28, 4, 0.11, 0.11),
        _cpu(14, 8, 0.07, 0.13),
        _cpu(7, 16, 0.03, 0.07),
        _cpu(128, 2, 0.07, 0.15),
        _cpu(128, 2, 0.07, 0.15, dilation=4),
        _cpu(128, 2, 0.07, 0.15, dilation=8),
    ],
    cuda_shapes=stages(),
    random_shape=random_shape,
    cpu_peers=cpu_peers,
    cuda_peers=cuda_peers,
    goal_peer="gather",
    notes=NOTES,
    launches=launches,
)
