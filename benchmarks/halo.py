"""Halo attention under test: the stages of HaloNet-50ts, compared with timm's layer.

Shape legend: B batch, H W map of keys, H' W' of queries, h heads, D width.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attnzoo.kernels import halo_attention

from .launches import BATCH, DTYPES, launches_of
from .operators import Function, NamedLaunch, Operator, Peer, Shape, Work

NOTES = [
    "Blocks of 8x8 and a halo of 3, relative scores of rows and columns, contiguous q of (B, H, W, heads, width), keys "
    "and values packed along the channels as a projection returns them. With a stride of 2 there is one query for each "
    "2x2 keys.",
    "timm is HaloAttn with its projections replaced by identities: it gets q, and packed keys and values, channels "
    "first, as its own projections return them.",
]


@dataclass(frozen=True, kw_only=True)
class HaloShape(Shape):
    """A map of keys, in blocks."""

    block: int = 8
    halo: int = 3
    stride: int = 1
    # channels E of a head's values
    value_width: int = 32

    @property
    def detail(self) -> str:
        """The stride, and block and halo if they are not 8 and 3."""
        geometry = "" if (self.block, self.halo) == (8, 3) else f"block {self.block} halo {self.halo} "
        return f"{geometry}stride {self.stride}" if self.stride > 1 else geometry.strip()

    @property
    def keys(self) -> int:
        """Number of keys of a query."""
        return (self.block + 2 * self.halo) ** 2

    @property
    def output_shape(self) -> tuple[int, ...]:
        """(B, H', W', h, D)."""
        rows, columns = (-(-length // self.stride) for length in self.size)
        return self.batch, rows, columns, self.heads, self.value_width

    @property
    def query_shape(self) -> tuple[int, ...]:
        """(B, H', W', h, D)."""
        return *self.output_shape[:4], self.width

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """q, keys and values (B, H, W, h, D + E), and the tables of rows and columns."""
        entries = 2 * (self.block + 2 * self.halo) - 1
        shapes = self.query_shape, (self.batch, *self.size, self.heads, self.width + self.value_width)
        maps = [torch.randn(shape, dtype=dtype, device=device, requires_grad=True) for shape in shapes]
        # scaled like initial weights
        tables = [torch.randn(entries, self.width, dtype=dtype, device=device) * self.width**-0.5 for _ in range(2)]
        return [*maps, *(table.requires_grad_() for table in tables)]

    def call(self, backend: str | None) -> Function:
        """The operator."""

        def attend(q: Tensor, kv: Tensor, rel_rows: Tensor, rel_columns: Tensor) -> Tensor:
            k, v = kv.split([self.width, self.value_width], 4)
            return halo_attention(
                q,
                k,
                v,
                self.block,
                self.halo,
                stride=self.stride,
                rel_rows=rel_rows,
                rel_columns=rel_columns,
                backend=backend,
            )

        return attend

    def moving(self, of_query: int, of_key: int, products: int) -> Work:
        """The work for a number of entries moved per query and per key, and of multiply-adds per query and key pair."""
        queries = math.prod(self.output_shape[:4])
        keys = self.batch * self.size[0] * self.size[1] * self.heads
        return Work(of_query * queries + of_key * keys, products * queries * self.keys)

    def work(self, is_backward: bool) -> Work:
        """As in `Shape`: two products in the forward pass, five in the backward pass."""
        width, channels = self.width, self.width + self.value_width
        if is_backward:
            return self.moving(2 * channels, 2 * channels, 2 * channels + width)
        return self.moving(channels, channels, channels)


def random_shape(generator: random.Random) -> HaloShape:
    """Random blocks on a small map; they divide the map, because timm requires it."""
    stride = generator.randint(1, 2)
    block = stride * generator.randint(1, 4)
    width = generator.choice((8, 16, 24, 32, 64))
    return HaloShape(
        size=(block * generator.randint(1, 4), block * generator.randint(1, 4)),
        heads=generator.randint(1, 4),
        batch=generator.randint(1, 3),
        width=width,
        value_width=width,
        block=block,
        halo=generator.randint(0, 4),
        stride=stride,
    )


def timm_layer(shape: HaloShape, device: torch.device) -> Peer:
    """timm's HaloAttn with its projections replaced by identities."""
    from timm.layers.halo_attn import HaloAttn

    channels = shape.heads * shape.width
    geometry = {"num_heads": shape.heads, "block_size": shape.block, "halo_size": shape.halo, "stride": shape.stride}
    layer = HaloAttn(channels, **geometry).to(device)
    layer.q, layer.kv = nn.Identity(), nn.Identity()
    positions = layer.pos_embed
    del positions.height_rel, positions.width_rel

    def attend(q: Tensor, kv: Tensor, rel_rows: Tensor, rel_columns: Tensor) -> Tensor:
        positions.height_rel, positions.width_rel = rel_rows, rel_columns
        layer.q.forward = lambda x: q
        # timm uses only the size of q's input; (B, h * D, H', W') -> (B, H', W', h, D)
        return layer(kv).permute(0, 2, 3, 1).unflatten(3, (shape.heads, shape.width))

    def prepare(inputs: Sequence[Tensor]) -> list[Tensor]:
        q, kv, *tables = (x.detach() for x in inputs)
        maps = [x.flatten(3).permute(0, 3, 1, 2).contiguous() for x in (q, kv)]
        return [x.requires_grad_() for x in (*maps, *tables)]

    return Peer(lambda: attend, prepare, lambda out: out)


def cpu_peers(shape: HaloShape, is_training: bool) -> dict[str, Peer]:
    """timm's layer."""
    return cuda_peers(shape, torch.device("cpu"))


def cuda_peers(shape: HaloShape, device: torch.device) -> dict[str, Peer]:
    """timm's layer."""
    return {"timm": timm_layer(shape, device)}


# key map, heads and stride of the attention blocks, at 256 pixels
STAGES = ((32, 4, 1), (16, 8, 1), (16, 8, 2), (8, 8, 1))


def shapes(image: int, batch: int, goal: float | None = None) -> list[HaloShape]:
    """The stages of HaloNet-50ts for an image size that is a multiple of 256; head widths are 32, 32, 64, 64."""
    return [
        HaloShape(
            size=(length * image // 256,) * 2,
            heads=heads,
            width=width,
            value_width=width,
            batch=batch,
            stride=stride,
            image=image,
            wanted_forward=goal,
            wanted_training=goal,
        )
        for (length, heads, stride), width in zip(STAGES, (32, 32, 64, 64), strict=True)
    ]


# head channels of keys and values, for each width of the launch tables; the last are those of HaloNet-H7
HEADS = ((32, 32), (64, 64), (128, 128), (64, 256))


def launches(architecture: str) -> list[NamedLaunch]:
    """Forward and backward kernels of the networks' blocks, with and without stride, for every width and dtype."""
    shapes = [
        HaloShape(size=(32, 32), heads=8, batch=BATCH, width=width, value_width=value_width, stride=stride)
        for stride in (1, 2)
        for width, value_width in HEADS
    ]
    return [launch for shape in shapes for dtype in DTYPES for launch in _kernels(shape, dtype, architecture)]


def _kernels(shape: HaloShape, dtype: torch.dtype, architecture: str) -> Iterator[NamedLaunch]:
    """The kernels of one shape, with packed keys and values."""
    from attnzoo.kernels.halo import triton_kernels
    from attnzoo.kernels.halo.geometry import halo_axes

    def empty(*size: int) -> Tensor:
        return torch.empty(size, dtype=dtype, device="meta")

    window = shape.block + 2 * shape.halo
    q, scores = empty(*shape.query_shape), empty(*shape.query_shape[:4], window)
    kv = empty(shape.batch, *shape.size, shape.heads, shape.width + shape.value_width)
    k, v = kv.split([shape.width, shape.value_width], 4)
    axes = halo_axes(shape.size, *((value, value) for value in (shape.block, shape.halo, shape.stride)))
    extras = {"row_scores": scores, "column_scores": scores}
    found = [
        launch
        for direction in ("forward", "backward")
        for launch in launches_of(triton_kernels, q, k, v, extras, axes, architecture, direction)
    ]
    width, channels = shape.width, shape.width + shape.value_width
    widths = f"D{width}" if width == shape.value_width else f"D{width} E{shape.value_width}"
    works = {
        "forward": shape.moving(channels + 2 * window, channels, channels),
        "dq": shape.moving(2 * channels + 4 * window, channels, channels + width),
        "dk, dv": shape.moving(channels + 2 * window, 2 * channels, 2 * channels),
    }
    for (name, work), launch in zip(works.items(), found, strict=True):
        sizes = launch.configuration.constants
        trips: tuple[float, ...] = (-(-(window**2) // sizes["CHUNK"]),)
        if name == "dk, dv":
            # the mean number of blocks whose windows contain keys of a tile
            windows = math.prod(sum(map(len, axis.key_tiles)) / len(axis.key_tiles) for axis in axes)
            trips = windows, -(-((shape.block // shape.stride) ** 2) // sizes["CHUNK"])
        pairs = sizes["TILE"] * sizes["CHUNK"]
        yield NamedLaunch(f"{shape.name} {widths} {name}", launch, dtype, work, trips, pairs)


OPERATOR = Operator(
    name="halo",
    function=halo_attention,
    cpu_shapes=[shape for batch in (1, 8) for shape in shapes(256, batch, goal=1.0)],
    cuda_shapes=[shape for image in (256, 512, 1024) for batch in (128, 32, 1) for shape in shapes(image, batch)],
    random_shape=random_shape,
    cpu_peers=cpu_peers,
    cuda_peers=cuda_peers,
    goal_peer="timm",
    notes=NOTES,
    launches=launches,
)
