"""`python -m benchmarks natten`: NATTEN's unfused pair, and sequences against a form of one dimension.

Shape legend: B batch, H W map, L length of a sequence, h heads, D width, G length of a dilation group, n tiles, T
queries of a tile, R keys of its region.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

from attnzoo.kernels import neighborhood_attention
from attnzoo.kernels.neighborhood.geometry import Axis
from attnzoo.natten import natten2dav, natten2dqkrpb

from . import neighborhood
from .neighborhood import NeighborhoodShape
from .neighborhood_peers import gather
from .operators import Function, Operator, Peer, Shape

# queries of a tile of the direct form
TILE = 64


@dataclass(frozen=True, kw_only=True)
class PairShape(NeighborhoodShape):
    """A map in NATTEN's layout, (B, h, H, W, D), for `natten2dqkrpb`, a softmax and `natten2dav`."""

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(B, h, H, W, D)."""
        return self.batch, self.heads, *self.size, self.width

    def maps(self, count: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """Returns random maps (B, h, H, W, D) that require gradients."""
        return [torch.randn(self.output_shape, dtype=dtype, device=device, requires_grad=True) for _ in range(count)]

    def call(self, backend: str | None) -> Function:
        """The pair; of the reference, neighborhood attention."""
        if backend == "reference":
            return _heads_last(super().call(backend))

        def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
            scores = natten2dqkrpb(q * q.shape[-1] ** -0.5, k, bias, self.kernel, self.dilation)
            return natten2dav(scores.softmax(-1), v, self.kernel, self.dilation)

        return attend


@dataclass(frozen=True, kw_only=True)
class SequenceShape(Shape):
    """A sequence of `size[0]` positions and its windows."""

    kernel: int = 64
    dilation: int = 1

    @property
    def name(self) -> str:
        """Name of the row in the output."""
        return f"L{self.size[0]} h{self.heads} B{self.batch} {self.detail}"

    @property
    def detail(self) -> str:
        """The window."""
        return f"kernel {self.kernel} dilation {self.dilation}"

    @property
    def keys(self) -> int:
        """Number of keys of a query."""
        return self.kernel

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(B, L, h, D)."""
        return self.batch, self.size[0], self.heads, self.width

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """q, k and v."""
        return [torch.randn(self.output_shape, dtype=dtype, device=device, requires_grad=True) for _ in range(3)]

    def call(self, backend: str | None) -> Function:
        """The operator on sequences."""
        return lambda q, k, v: neighborhood_attention(q, k, v, self.kernel, dilation=self.dilation, backend=backend)


def _heads_last(function: Function) -> Function:
    """Returns a function of (B, h, H, W, D) from one of (B, H, W, h, D); all are views."""

    def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return function(*(x.movedim(1, 3) for x in (q, k, v)), bias).movedim(3, 1)

    return attend


def _in_a_row(shape: SequenceShape) -> Function:
    """The operator on a map of one row."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        row = (x.unsqueeze(1) for x in (q, k, v))
        return neighborhood_attention(*row, (1, shape.kernel), dilation=(1, shape.dilation), backend="eager").squeeze(1)

    return attend


def direct(shape: SequenceShape) -> Function:
    """Attention of tiles of queries to overlapping views of the padded keys, for sequences that tiles divide."""
    group, kernel = shape.size[0] // shape.dilation, shape.kernel
    count, before = group // TILE, kernel // 2
    region = TILE + kernel - 1
    starts = torch.tensor([Axis(group, kernel).window(0, rank)[0] for rank in range(group)]).view(count, TILE, 1)
    keys = torch.arange(count)[:, None, None] * TILE - before + torch.arange(region)
    # (n, T, R)
    mask = torch.zeros(count, TILE, region).masked_fill(~((keys >= starts) & (keys < starts + kernel)), -torch.inf)

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        batch, _, heads, width = q.shape
        # (B, L, h, D) -> (B * h * dilation, G, D)
        q, k, v = (x.unflatten(1, (group, -1)).permute(0, 3, 2, 1, 4).flatten(0, 2) for x in (q, k, v))
        # (., n, T, D) and (., n, R, D)
        q = q.unflatten(1, (count, TILE))
        k, v = (F.pad(x, (0, 0, before, kernel - 1 - before)).unfold(1, region, TILE).mT for x in (k, v))
        out = (q * width**-0.5 @ k.mT + mask).softmax(-1) @ v
        return out.flatten(1, 2).unflatten(0, (batch, heads, -1)).permute(0, 3, 2, 1, 4).flatten(1, 2)

    return attend


def _random_pair(generator: random.Random) -> PairShape:
    drawn = neighborhood.random_shape(generator)
    values = {field.name: getattr(drawn, field.name) for field in fields(drawn)}
    return PairShape(**{**values, "stride": 1, "is_causal": False})


def _random_sequence(generator: random.Random) -> SequenceShape:
    dilation, kernel = generator.randint(1, 5), generator.randint(1, 40)
    length = generator.randint(kernel * dilation, kernel * dilation + 200)
    return SequenceShape(size=(length, 1), heads=generator.randint(1, 3), kernel=kernel, dilation=dilation)


def _pair(size: int, heads: int, batch: int = 1) -> PairShape:
    return PairShape(size=(size, size), heads=heads, batch=batch, wanted_forward=0.5, wanted_training=0.6)


def _sequence(length: int, dilation: int) -> SequenceShape:
    return SequenceShape(size=(length, 1), heads=2, dilation=dilation, wanted_forward=1.1, wanted_training=1.1)


OPERATORS = [
    Operator(
        name="natten",
        function=natten2dqkrpb,
        cpu_shapes=[_pair(56, 2), _pair(28, 4), _pair(14, 8), _pair(14, 8, batch=8)],
        cuda_shapes=[],
        random_shape=_random_pair,
        cpu_peers=lambda shape, is_training: {"gather": Peer(lambda: _heads_last(gather(*shape.axes)))},
        cuda_peers=lambda shape, device: {},
        goal_peer="gather",
        notes=[
            "natten2dqkrpb, softmax and natten2dav, kernel 7x7, width 32, contiguous q, k, v of (B, heads, H, W, "
            "width), with a bias table. gather computes the same from the gathered keys and values of every query; its "
            "indices are precomputed.",
        ],
    ),
    Operator(
        name="sequence",
        function=neighborhood_attention,
        cpu_shapes=[_sequence(8192, 1), _sequence(8192, 4), _sequence(1024, 1)],
        cuda_shapes=[],
        random_shape=_random_sequence,
        cpu_peers=lambda shape, is_training: {
            "direct": Peer(functools.partial(direct, shape)),
            "row": Peer(lambda: _in_a_row(shape)),
        },
        cuda_peers=lambda shape, device: {},
        goal_peer="direct",
        notes=[
            "Sequences (B, L, heads, width), width 32, without biases. direct is written for one dimension: tiles of "
            f"{TILE} queries on overlapping views of padded keys, a precomputed mask, and products; row is the "
            "operator on a map of one row.",
        ],
    ),
]
