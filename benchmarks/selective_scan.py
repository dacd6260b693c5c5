"""The selective scan under test: the scans of PlainMamba, compared with Mamba's reference formulation.

Shape legend: B batch, H W map, L = H * W, h heads, D width, N numbers of the state of a channel.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from attnzoo.kernels import selective_scan

from .launches import BATCH, DTYPES
from .operators import Function, NamedLaunch, Operator, Peer, Shape, Work

NOTES = [
    "Every head is a route over one map, along its rows or columns, forwards and backwards. Values, step sizes, A, "
    "outputs and D are shared by the routes, inputs B are not, as in PlainMamba.",
    "sequential is Mamba's reference formulation: a scan for each route, one token after another.",
]


@dataclass(frozen=True, kw_only=True)
class ScanShape(Shape):
    """A map that is scanned along as many routes as there are heads, and the numbers of a state."""

    state: int = 16

    @property
    def detail(self) -> str:
        """The width."""
        return f"D{self.width}"

    @property
    def keys(self) -> int:
        """Numbers of a state: what a channel of a token is multiplied with."""
        return self.state

    def inputs(self, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
        """u, delta (B, H, W, 1, D), A (1, D, N), B (B, H, W, h, N), C (B, H, W, 1, N) and D (1, D)."""
        of_map = self.batch, *self.size

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, dtype=dtype, device=device)

        tensors = [
            draw(*of_map, 1, self.width),
            F.softplus(draw(*of_map, 1, self.width) - 2),
            -draw(1, self.width, self.state).exp(),
            draw(*of_map, self.heads, self.state),
            draw(*of_map, 1, self.state),
            draw(1, self.width),
        ]
        return [x.requires_grad_() for x in tensors]

    def routes(self, device: torch.device) -> Tensor:
        """(h, L) rows and columns, forwards and backwards."""
        tokens = torch.arange(self.size[0] * self.size[1], device=device)
        columns = tokens.view(self.size).T.flatten()
        four = tokens, tokens.flip(0), columns, columns.flip(0)
        return torch.stack([four[i % 4] for i in range(self.heads)])

    def call(self, backend: str | None) -> Function:
        """The operator, .. -> (B, H, W, h, D)."""

        def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
            u, delta, B, C = (x.flatten(1, 2) for x in (u, delta, B, C))
            out = selective_scan(u, delta, A, B, C, D, routes=self.routes(u.device), backend=backend)
            return out.unflatten(1, self.size)

        return scan

    def work(self, is_backward: bool) -> Work:
        """The work of a pass: the values and step sizes are read, and an output or gradients of every route written.

        Three multiply-adds for a number of a state, and as many again for each of the gradients of its three factors.
        """
        of_map, factor = self.entries // self.heads, 12 if is_backward else 3
        moved = 3 * of_map + 2 * self.entries if is_backward else 2 * of_map + self.entries
        return Work(moved, factor * self.entries * self.state)


def random_shape(generator: random.Random) -> ScanShape:
    """A small map with any number of heads."""
    return ScanShape(
        size=(generator.randint(1, 7), generator.randint(1, 7)),
        heads=generator.randint(1, 4),
        batch=generator.randint(1, 3),
        width=generator.choice((1, 3, 8, 24)),
        state=generator.choice((1, 4, 5, 16)),
    )


def sequential(shape: ScanShape) -> Function:
    """A scan for each route, .. -> (B, H, W, h, D)."""

    def scan(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        u, delta, B, C = (x.flatten(1, 2) for x in (u, delta, B, C))
        found = []
        for head, route in enumerate(shape.routes(u.device)):
            x = u[:, route, 0]
            decay = torch.exp(torch.einsum("ble,en->blen", delta[:, :, 0], A[0]))
            added = torch.einsum("ble,bln,ble->blen", delta[:, :, 0], B[:, :, head], x)
            state, out = torch.zeros_like(added[:, 0]), []
            for step in range(x.shape[1]):
                state = decay[:, step] * state + added[:, step]
                out.append(torch.einsum("ben,bn->be", state, C[:, step, 0]))
            found.append((torch.stack(out, 1) + x * D[0])[:, route.argsort()])
        return torch.stack(found, 2).unflatten(1, shape.size)

    return scan


def peers(shape: ScanShape, _: object) -> dict[str, Peer]:
    """Mamba's reference formulation, for both directions and any device."""
    return {"sequential": Peer(partial(sequential, shape))}


def launches(architecture: str) -> list[NamedLaunch]:
    """Both kernels at the map of PlainMamba, for every dtype."""
    shape = ScanShape(size=(14, 14), heads=4, batch=BATCH, width=384)
    return [launch for dtype in DTYPES for launch in _kernels(shape, dtype, architecture)]


def _kernels(shape: ScanShape, dtype: torch.dtype, architecture: str) -> Iterator[NamedLaunch]:
    from attnzoo.kernels.selective_scan import triton_launches
    from attnzoo.kernels.triton_plan import Workspace

    meta = torch.device("meta")
    given = [x.detach().flatten(1, 2) if x.ndim > 4 else x.detach() for x in shape.inputs(dtype, meta)]
    # parameters are kept in float32
    given = [*(x if x.ndim == 4 else x.float() for x in given), shape.routes(meta)]
    (forward,), (out, states) = triton_launches.forward_launch(Workspace(given), architecture)
    workspace = Workspace((out.tensor, *given, states.tensor))
    (backward,), _ = triton_launches.backward_launch(workspace, architecture)
    for direction, launch in (("forward", forward), ("backward", backward)):
        work = shape.work(direction == "backward")
        yield NamedLaunch(f"{shape.name} {direction}", launch, dtype, work)


OPERATOR = Operator(
    name="selective_scan",
    function=selective_scan,
    cpu_shapes=[
        ScanShape(size=size, heads=4, batch=batch, width=width, wanted_forward=0.5, wanted_training=0.5)
        for batch in (1, 8)
        for size, width in (((14, 14), 384), ((14, 14), 768))
    ],
    cuda_shapes=[
        ScanShape(size=(image // 16, image // 16), heads=4, batch=batch, width=width, image=image)
        for image, width in ((224, 384), (224, 768), (224, 896))
        for batch in (128, 32, 1)
    ],
    random_shape=random_shape,
    cpu_peers=peers,
    cuda_peers=peers,
    goal_peer="sequential",
    notes=NOTES,
    launches=launches,
)
