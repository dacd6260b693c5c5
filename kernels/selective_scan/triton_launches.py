"""The launches of the selective scan, and the tensors that they fill.

Shape legend: B batch, L steps, h heads, E channels of a head, N numbers of the state of a channel, K tiles of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from ..triton_blocks import Tokens, Width
from ..triton_launch import Configuration, Launch, architecture_of, readable
from ..triton_plan import Result, Workspace, run
from ..triton_tables import entry_of
from .order import heads_of
from .tiles import TILE, tiles_of
from .triton_kernels import Sizes, scan_backward_kernel, scan_forward_kernel

NAMES = ("u", "delta", "A", "B", "C", "D", "routes")


def forward(given: Sequence[Tensor | None]) -> tuple[Tensor, Tensor]:
    """Computes the output (B, L, h, E), and the state before every tile (B, h, K, E, N) in float32.

    Args:
        given: u, delta, A, B, C, D and routes; the last two may be None.
    """
    out, states = run(("scan forward",), given, forward_launch)
    return out, states


def backward(dout: Tensor, given: Sequence[Tensor | None], states: Tensor, needs: Mapping[str, bool]) -> list[Tensor]:
    """Computes the needed gradients of the tensors in `given`, in the order of `needs`.

    Args:
        dout: gradient of the output.
        given: as in `forward`.
        states: second result of `forward`.
        needs: which gradients are needed, by name.
    """

    def build(workspace: Workspace) -> tuple[list[Launch], list[Result]]:
        launches, results = backward_launch(workspace)
        return launches, [results[name] for name, is_needed in needs.items() if is_needed]

    return run(("scan backward", *needs.values()), (dout, *given, states), build)


def forward_launch(workspace: Workspace, architecture: str | None = None) -> tuple[list[Launch], list[Result]]:
    """Returns the launch of the forward pass, and the output and states that it fills.

    Args:
        workspace: with the tensors `given` of `forward`.
        architecture: key of the configuration tables; None for that of the tensors' device.
    """
    tensors, sizes, batch = _prepared(workspace, dict(zip(NAMES, workspace.given, strict=True)))
    u, A = tensors["u"], tensors["A"]
    out = workspace.empty((batch, sizes.steps, sizes.heads, sizes.width), u.dtype, u.device)
    shape = batch, sizes.heads, tiles_of(sizes.steps), sizes.width, A.shape[2]
    states = workspace.empty(shape, torch.float32, u.device)
    chosen = configuration("forward", u, sizes, A.shape[2], architecture)
    filled = {**tensors, "out": out, "states": states}
    return [_launch(scan_forward_kernel, chosen, filled, sizes, batch)], [Result(out), Result(states)]


def backward_launch(workspace: Workspace, architecture: str | None = None) -> tuple[list[Launch], dict[str, Result]]:
    """Returns the launch of the backward pass, and the gradients by name.

    Args:
        workspace: with dout, the tensors `given` of `forward`, and its states.
        architecture: as in `forward_launch`.
    """
    names = ("dout", *NAMES, "states")
    tensors, sizes, batch = _prepared(workspace, dict(zip(names, workspace.given, strict=True)))
    u, state, heads = tensors["u"], tensors["A"].shape[2], sizes.heads
    chosen = configuration("backward", u, sizes, state, architecture)
    tokens, inputs = (batch, sizes.steps, heads, sizes.width), (batch, sizes.steps, heads, state)
    programs = -(-sizes.width // chosen.constants["BLOCK"])
    shapes: dict[str, tuple[int, ...]] = {
        "u": tokens,
        "delta": tokens,
        "A": (batch, heads, sizes.width, state),
        "B": (programs, *inputs),
        "C": (programs, *inputs),
        "D": (batch, heads, sizes.width),
    }
    gradients, results = dict[str, Tensor | None](), dict[str, Result]()
    for name, shape in shapes.items():
        like = tensors[name]
        if like is None:
            gradients[f"d{name}"] = None
            continue
        # parts are added in float32
        is_whole = name in ("u", "delta") and like.shape[2] == heads
        filled = workspace.empty(shape, like.dtype if is_whole else torch.float32, u.device)
        gradients[f"d{name}"] = filled
        own = like.shape[2] if like.ndim == 4 else like.shape[0]
        results[name] = Result(filled, partial(_finished, name, own, like.dtype))
    return [_launch(scan_backward_kernel, chosen, {**tensors, **gradients}, sizes, batch)], results


def _finished(name: str, heads: int, dtype: torch.dtype, x: Tensor) -> Tensor:
    """Adds the parts of a gradient: of images or programs, and of heads that share a tensor."""
    if name not in ("u", "delta"):
        x = x.sum(0)
    axis = 0 if name in ("A", "D") else 2
    if x.shape[axis] != heads:
        x = x.sum(axis, keepdim=True)
    return x.to(dtype)


def _prepared(workspace: Workspace, given: dict[str, Tensor | None]) -> tuple[dict[str, Any], Sizes, int]:
    """Returns the tensors by name, with contiguous parameters and routes, the sizes and the number of images."""
    tensors: dict[str, Any] = dict(given)
    for name in ("A", "D", "routes"):
        if tensors[name] is not None:
            tensors[name] = workspace.make(torch.Tensor.contiguous, tensors[name])
    u, A, D = tensors["u"], tensors["A"], tensors["D"]
    heads = heads_of(*(tensors[name] for name in NAMES))
    of_a = A[0].numel() if len(A) > 1 else 0
    of_d = D.shape[1] if D is not None and len(D) > 1 else 0
    return tensors, Sizes(u.shape[1], heads, u.shape[3], of_a, of_d), u.shape[0]


def _launch(kernel: Any, chosen: Configuration, tensors: Mapping[str, Any], sizes: Sizes, batch: int) -> Launch:
    """Returns the launch of a kernel, with one program for some channels of a head of an image.

    Args:
        kernel: the kernel.
        chosen: its configuration.
        tensors: by the names of the kernel's arguments, None for those that are left out.
        sizes: sizes of the call.
        batch: number of images.
    """
    state = tensors["A"].shape[2]
    arguments = {name: _argument(name, tensors[name]) for name in kernel.arg_names if name in tensors}
    return Launch(
        kernel,
        lambda constants: batch * sizes.heads * -(-sizes.width // constants["BLOCK"]),
        {**arguments, "sizes": sizes},
        {"STATE": Width(state, triton.next_power_of_2(state)), "TILE": TILE},
        chosen,
    )


def _argument(name: str, x: Tensor | None) -> Any:
    """Wraps a tensor of tokens or steps (B, L, h or 1, .); other tensors are contiguous."""
    if x is None or name not in ("u", "delta", "B", "C", "out", "dout", "du", "ddelta"):
        return x
    x = readable(x)
    return Tokens(x, x.stride(0), x.stride(1), 0, 0 if x.shape[2] == 1 else x.stride(2))


def configuration(
    direction: str, u: Tensor, sizes: Sizes, state: int, architecture: str | None = None
) -> Configuration:
    """Returns the table entry for a direction, with as many channels as have that many numbers in their states."""
    numbers, num_warps, num_stages = entry_of(
        "selective_scan",
        architecture or architecture_of(u.device),
        direction,
        itemsize=u.dtype.itemsize,
        width=state,
    )
    block = max(1, numbers // triton.next_power_of_2(state))
    return Configuration({"BLOCK": min(block, triton.next_power_of_2(sizes.width))}, num_warps, num_stages)
