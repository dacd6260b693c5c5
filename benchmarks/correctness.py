"""Nothing wrong is timed: every execution is held against the reference in float64, on the device it runs on.

Shape legend: B batch, H W map, h heads, D width.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from attnzoo.tools.bench.report import reason
from attnzoo.tools.timing import Budget

from .operators import Function, Operator, Peer, Shape

# a peer that differs by more computes something else
PEER_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
METHOD = (
    "Before a row is timed, output and gradients of ours are compared with the reference in float64 on the last image "
    "of the batch (an offset that overflows shows there): the largest error may be twice that of the reference in the "
    "row's dtype, and four roundings of the largest entry. A peer may differ by a share of the norm, 1e-4 in float32, "
    "2e-2 in float16 and 5e-2 in bfloat16; in half precision its bias gradient is not compared, and one that is given "
    "its inputs laid out beforehand is compared forward only."
)


class Truth:
    """What the reference gives on the last image of a batch, in float64 and in the inputs' own dtype."""

    def __init__(self, shape: Shape, inputs: Sequence[Tensor]) -> None:
        self.batch = shape.batch
        self.names = ["output", *(f"gradient {i}" for i, x in enumerate(inputs) if x.requires_grad)]
        self.upstream = torch.randn(1, *shape.output_shape[1:], dtype=inputs[0].dtype, device=inputs[0].device)
        reference = dataclasses.replace(shape, batch=1).call("reference")
        last = [(x[-1:] if _is_of_image(x) else x).detach().requires_grad_(x.requires_grad) for x in inputs]
        self.plain = gradients(reference, last, self.upstream)
        exact = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in last]
        self.exact = gradients(reference, exact, self.upstream.double())

    def of(self, function: Function, inputs: Sequence[Tensor], is_training: bool) -> list[Tensor]:
        """A function's output, and gradients where wanted, on the last image while the whole batch runs."""
        if not is_training:
            return [forward(function, inputs)[-1:]]
        # the other images' gradients are zero, so that a table's gradient is of the last image too
        upstream = self.upstream.new_zeros(self.batch, *self.upstream.shape[1:])
        upstream[-1:] = self.upstream
        return [x[-1:] if _is_of_image(x) else x for x in gradients(function, inputs, upstream)]

    def complaint(self, found: Sequence[Tensor]) -> str | None:
        """What is wrong with ours, None when nothing is."""
        for name, x, plain, exact in zip(self.names, found, self.plain, self.exact, strict=False):
            largest = exact.abs().max().item() if exact.numel() else 0.0
            allowed = 2 * _error(plain, exact) + 4 * torch.finfo(x.dtype).eps * largest
            error = _error(x, exact)
            if not error <= allowed:
                return f"{name} differs by {error:.2g} at most, {allowed:.2g} is allowed, its largest is {largest:.2g}"
        return None

    def difference(self, found: Sequence[Tensor]) -> str | None:
        """What sets a peer apart, None when it computes the same."""
        for name, x, exact in zip(self.names, found, self.exact, strict=False):
            # a table collects thousands of terms in the peer's own precision
            if not _is_of_image(exact) and x.dtype in (torch.float16, torch.bfloat16):
                continue
            share = ((x.double() - exact).norm() / exact.norm()).item()
            if not share <= PEER_TOLERANCE[x.dtype]:
                return f"{name} differs by {share:.2g} of its norm"
        return None


def forward(function: Function, inputs: Sequence[Tensor]) -> Tensor:
    """One call without gradients."""
    with torch.no_grad():
        return function(*inputs)


def gradients(function: Function, inputs: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    """Output and the gradient of every input that requires one."""
    out = function(*inputs)
    wanted = [x for x in inputs if x.requires_grad]
    return [out.detach(), *torch.autograd.grad(out, wanted, upstream)]


def check_peer(truth: Truth, peer: Peer, inputs: Sequence[Tensor], is_training: bool) -> tuple[Function, str | None]:
    """A peer's function, and what sets it apart."""
    function = peer.build()
    if peer.prepare is None or peer.restore is None:
        return function, truth.difference(truth.of(function, inputs, is_training))
    with torch.no_grad():
        out = peer.restore(function(*peer.prepare(inputs)))
    return function, truth.difference([out[-1:]])


def complaint_on_random_shape(operator: Operator, dtype: torch.dtype, device: torch.device, seed: int) -> str | None:
    """Runs an operator on a random shape: what is wrong with it, None when nothing is."""
    shape = operator.random_shape(random.Random(seed))
    try:
        inputs = shape.inputs(dtype, device)
        truth = Truth(shape, inputs)
        complaint = truth.complaint(truth.of(shape.call(None), inputs, is_training=True))
    except Exception as error:  # an operator that does not run on a shape is wrong there
        complaint = reason(error)
    return complaint and f"{operator.name} {shape.name} width {shape.width} {str(dtype)[6:]}: {complaint}"


def sweep(
    tested: Sequence[Operator], dtypes: Sequence[torch.dtype], device: torch.device, count: int, budget: Budget
) -> tuple[int, list[str]]:
    """Runs every operator in every dtype on random shapes, until there are `count` of each or the budget is spent.

    Returns:
        How many were run, and a sentence for each on which an operator is wrong.
    """
    done = 0
    wrong: list[str] = []
    for seed in range(count):
        for operator in tested:
            for dtype in dtypes:
                if budget.is_spent:
                    return done, wrong
                complaint = complaint_on_random_shape(operator, dtype, device, seed)
                done += 1
                wrong += [complaint] if complaint else []
    return done, wrong


def _is_of_image(x: Tensor) -> bool:
    """Whether the first axis is the batch: maps (B, H, W, .., h, D) and routes, but no table."""
    return x.ndim > 4 or not x.is_floating_point()


def _error(x: Tensor, exact: Tensor) -> float:
    if not x.numel():
        return 0.0
    return (x.double() - exact).abs().nan_to_num(torch.inf).max().item()
