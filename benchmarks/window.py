"""Window attention on a CPU: the eager execution against the way timm computes it, without the projections.

Every row is checked against the reference first, then timed, forward without gradients and forward with backward.

    python benchmarks/window.py            some three minutes; prints a table, writes benchmarks/results/
    python benchmarks/window.py --quick    two rounds each
    python benchmarks/window.py --only 7x7
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timing import METHOD, environment, summary, take_turns
from timm.models.swin_transformer import (
    SwinTransformerBlock,
    get_relative_position_index,
    window_partition,
    window_reverse,
)
from torch import Tensor

from attnzoo.kernels import window_attention

WINDOW, WIDTH = 7, 32
NOTES = [
    "float32, one thread, window 7x7, width 32, q, k, v packed as (B, H, W, 3, heads, width), with a bias table; in "
    "forward+backward all of them have gradients. Indices and masks are made beforehand for every candidate.",
    "timm is SwinTransformerBlock's attention without its two projections: roll and partition of the block's input of "
    "C channels, fused attention on q, k, v that a projection of the windows would have left in window order, reverse "
    "and roll. Ours must cut q, k and v, three times the channels. timm's shift mask is its own, of -100.",
    "partition+SDPA is what an operator on q, k, v would be in timm's functions: roll and partition of the packed "
    "projection, scaled_dot_product_attention under a prebuilt mask of -inf, reverse and roll.",
]


@dataclass(frozen=True)
class Shape:
    """A row of the table, and the ratio to timm that the project set itself."""

    size: tuple[int, int]
    heads: int
    batch: int = 1
    shift: int = 0

    @property
    def name(self) -> str:
        """What the row is called on screen."""
        shift = f" shift {self.shift}" if self.shift else ""
        return f"{self.size[0]}x{self.size[1]} h{self.heads} B{self.batch}{shift}"

    @property
    def wanted(self) -> float:
        """The set ratio to timm."""
        return 0.85 if self.shift else 1.0


# the stages of Swin-T at 224; its last stage is one window, and not shifted
SHAPES = [
    Shape((length, length), heads, batch, shift)
    for length, heads in ((56, 3), (28, 6), (14, 12), (7, 24))
    for batch in (1, 8)
    for shift in (0, 3)
    if length > WINDOW or not shift
]

Inputs = list[Tensor]


@dataclass(frozen=True)
class Candidate:
    """A way to compute window attention.

    Attributes:
        attend: from its inputs to (B, H, W, h, D).
        arrange: packed q, k, v (B, H, W, 3, h, D) and bias table (h, 13, 13) as `attend` takes them. Gradients are
            arranged alike.
        others: makes further inputs, which have gradients in training.
    """

    attend: Callable[..., Tensor]
    arrange: Callable[[Tensor, Tensor], Inputs] = lambda qkv, bias: [qkv, bias]
    others: Callable[[], Inputs] = list

    def inputs(self, qkv: Tensor, bias: Tensor) -> Inputs:
        """What `attend` takes, leaves that require gradients."""
        return [x.detach().requires_grad_() for x in (*self.arrange(qkv, bias), *self.others())]


def candidates(shape: Shape, is_training: bool) -> dict[str, Candidate]:
    """What runs on a shape, by name; `ours` first."""
    return {"ours": ours(shape), "timm": timm_block(shape, is_training), "partition+SDPA": partition_and_sdpa(shape)}


def ours(shape: Shape, backend: str = "eager") -> Candidate:
    """The operator, which reads q, k, v in place."""

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        q, k, v = qkv.unbind(3)
        return window_attention(q, k, v, WINDOW, shift=shape.shift, bias=bias, backend=backend)

    return Candidate(attend)


class FreeProjection(torch.autograd.Function):
    """Stands for the projection of x: returns one computed beforehand, and on the way back x as its gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, projected: Tensor) -> Tensor:
        """(windows, T, C), (windows, T, 3 * C) -> (windows, T, 3 * C)."""
        ctx.save_for_backward(x)
        return projected.view_as(projected)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        """A gradient of x, of the right size only, and that of what was computed beforehand."""
        return ctx.saved_tensors[0], grad


def timm_block(shape: Shape, is_training: bool) -> Candidate:
    """The attention of timm's block as it is, with projections that cost nothing."""
    channels = shape.heads * WIDTH
    block = SwinTransformerBlock(channels, shape.size, shape.heads, window_size=WINDOW, shift_size=shape.shift)
    block.train(is_training)
    attention = block.attn
    # timm fuses its windows only when asked to
    attention.fused_attn = True
    attention.qkv, attention.proj = torch.nn.Identity(), torch.nn.Identity()
    del attention.relative_position_bias_table

    def attend(qkv: Tensor, table: Tensor, x: Tensor) -> Tensor:
        attention.qkv.forward = lambda windows: FreeProjection.apply(windows, qkv)
        attention.relative_position_bias_table = table
        return block._attn(x).unflatten(-1, (shape.heads, WIDTH))

    def arrange(qkv: Tensor, bias: Tensor) -> Inputs:
        # the table (entries, heads), and at query - key
        return [in_windows(qkv, shape), bias.flatten(1).flip(1).T.contiguous()]

    return Candidate(attend, arrange, lambda: [torch.randn(shape.batch, *shape.size, channels)])


def partition_and_sdpa(shape: Shape) -> Candidate:
    """Roll, partition, fused attention, reverse and roll of packed q, k, v, under a mask of -inf made beforehand."""
    heads, tokens = shape.heads, WINDOW**2
    index = get_relative_position_index(WINDOW, WINDOW).T.flatten()
    mask = shift_mask(shape) if shape.shift else None

    def attend(qkv: Tensor, bias: Tensor) -> Tensor:
        q, k, v = in_windows(qkv, shape).unflatten(2, (3, heads, WIDTH)).permute(2, 0, 3, 1, 4)
        added = bias.flatten(1).index_select(1, index).view(1, heads, tokens, tokens)
        if mask is not None:
            # (windows, 1, T, T) -> (B * windows, h, T, T)
            added = (added + mask).repeat(shape.batch, 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=added)
        # (B * windows, h, T, D) -> (B, H, W, h, D)
        out = window_reverse(
            out.transpose(1, 2).reshape(-1, WINDOW, WINDOW, heads * WIDTH), (WINDOW, WINDOW), *shape.size
        )
        return roll(out, shape.shift).unflatten(-1, (heads, WIDTH))

    return Candidate(attend)


def in_windows(qkv: Tensor, shape: Shape) -> Tensor:
    """(B, H, W, 3, h, D) -> (B * windows, T, 3 * h * D), rolled and partitioned by timm's function."""
    return window_partition(roll(qkv.flatten(3), -shape.shift), (WINDOW, WINDOW)).flatten(1, 2)


def roll(x: Tensor, shift: int) -> Tensor:
    """(B, H, W, C), rolled on both axes."""
    return x.roll((shift, shift), (1, 2)) if shift else x


def shift_mask(shape: Shape) -> Tensor:
    """(windows, 1, T, T): -inf between tokens from different sides of the map."""
    rows, columns = ((torch.arange(length) >= length - shape.shift) for length in shape.size)
    # (1, H, W, 1), one number for each side of both axes
    side = (2 * rows[:, None] + columns[None, :])[None, :, :, None]
    side = window_partition(side, (WINDOW, WINDOW)).flatten(1)
    return torch.zeros(()).where(side[:, :, None] == side[:, None, :], -torch.inf).unsqueeze(1)


def forward(function: Callable[..., Tensor], inputs: Inputs) -> Tensor:
    """One call without gradients."""
    with torch.no_grad():
        return function(*inputs)


def training(function: Callable[..., Tensor], inputs: Inputs, grad: Tensor) -> Inputs:
    """Output and the gradient of every input."""
    out = function(*inputs)
    return [out, *torch.autograd.grad(out, inputs, grad)]


def check(shape: Shape, found: Inputs, true: Inputs, name: str) -> None:
    """Nothing wrong is timed: 1e-4 of the largest entry, for the output and every gradient."""
    for what, x, y in zip(("output", "qkv", "bias"), found, true, strict=False):
        error = ((x - y).abs().max() / y.abs().max()).item()
        if not error <= 1e-4:
            raise SystemExit(f"{name} is wrong at {shape.name}: {what} differs by {error:.2g} of its largest entry")


def measure(shape: Shape, is_training: bool, rounds: int, seconds: float) -> dict[str, object]:
    """One row of the results: correctness first, then times."""
    qkv = torch.randn(shape.batch, *shape.size, 3, shape.heads, WIDTH)
    bias = torch.randn(shape.heads, 2 * WINDOW - 1, 2 * WINDOW - 1)
    grad = torch.randn(*qkv.shape[:3], shape.heads, WIDTH)
    reference = ours(shape, "reference")
    out, *grads = training(reference.attend, reference.inputs(qkv, bias), grad)
    calls: dict[str, Callable[[], object]] = {}
    for name, candidate in candidates(shape, is_training).items():
        inputs = candidate.inputs(qkv, bias)
        if is_training:
            true = [out, *candidate.arrange(*grads)]
            check(shape, training(candidate.attend, inputs, grad), true, name)
            calls[name] = functools.partial(training, candidate.attend, inputs, grad)
        else:
            check(shape, [forward(candidate.attend, inputs)], [out], name)
            calls[name] = functools.partial(forward, candidate.attend, inputs)
    times = take_turns(calls, rounds, seconds)
    return {
        "shape": asdict(shape) | {"window": WINDOW, "width": WIDTH},
        "name": shape.name,
        "direction": "forward+backward" if is_training else "forward",
        "rounds": len(times["ours"]),
        "milliseconds": {name: summary([1e3 * x for x in values]) for name, values in times.items()},
        "ours_over": {
            name: summary([ours / peer for ours, peer in zip(times["ours"], values, strict=True)])
            for name, values in times.items()
            if name != "ours"
        },
        "wanted_over_timm": shape.wanted,
    }


def line(row: dict) -> str:
    """A row on screen: ours in milliseconds, and the ratios with their spread."""
    cells = [f"{row['name']:<20} {row['direction']:<16} {row['milliseconds']['ours']['median']:>8.2f} ms"]
    for peer in ("timm", "partition+SDPA"):
        ratio = row["ours_over"][peer]
        cells.append(f"{ratio['median']:.3f} ({ratio['p10']:.3f}-{ratio['p90']:.3f})")
        if peer == "timm":
            cells.append(f"{row['wanted_over_timm']:<6}")
    return "  ".join(cells)


def main(arguments: list[str] | None = None) -> None:
    """Measures the table and writes it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds of each row")
    parser.add_argument("--only", default="", metavar="TEXT", help="rows whose name contains this, such as 56x56")
    parser.add_argument("--rounds", type=int, default=15, help="most rounds of a row (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=6, help="time for a row (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder of the results")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    torch.set_num_threads(1)
    shapes = [shape for shape in SHAPES if options.only in shape.name]
    if not shapes:
        parser.error(f"--only {options.only!r} fits no row: {', '.join(shape.name for shape in SHAPES)}")
    rounds = 2 if options.quick else options.rounds
    print("ours over a peer: median (10th-90th percentile); below 1 is faster than the peer")
    print(f"{'shape':<20} {'direction':<16} {'ours':>11}  {'/ timm':<21}  wanted  {'/ partition+SDPA':<21}")
    rows = []
    for shape in shapes:
        for is_training in (False, True):
            rows.append(measure(shape, is_training, rounds, options.seconds))
            print(line(rows[-1]), flush=True)
    date = datetime.date.today().isoformat()
    versions = {**environment(), "timm": timm.__version__}
    results = {"date": date, **versions, "method": METHOD, "notes": NOTES, "rows": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"window-cpu-{date}.json"
    path.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
