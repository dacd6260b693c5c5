"""Checks before timing: every execution is compared with the float64 reference, on the device it runs on.

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

# relative to the norm
PEER_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
METHOD = (
    "Before a row is timed, output and gradients of ours are compared with the float64 reference on the last image of "
    "the batch, where an overflowing offset would show. The allowed error is twice the largest error of the reference "
    "in the row's dtype, plus four roundings of the largest entry. A peer may differ by 1e-4 of the norm in float32, "
    "2e-2 in float16 and 5e-2 in bfloat16. Its bias gradient is not compared in half precision, and a peer whose "
    "inputs are prepared beforehand is compared in the forward pass only."
)


class Truth:
    """Results of the reference on the last image of a batch, in float64 and in the dtype of the inputs."""

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
        """Runs a function on the whole batch; returns its output, and in training its gradients, for the last image."""
        if not is_training:
            return [forward(function, inputs)[-1:]]
        # zero for the other images, so that the gradient of a table comes from the last image only
        upstream = self.upstream.new_zeros(self.batch, *self.upstream.shape[1:])
        upstream[-1:] = self.upstream
        return [x[-1:] if _is_of_image(x) else x for x in gradients(function, inputs, upstream)]

    def complaint(self, found: Sequence[Tensor]) -> str | None:
        """Describes the first error in the results of ours; None if there is none."""
        for name, x, plain, exact in zip(self.names, found, self.plain, self.exact, strict=False):
            largest = exact.abs().max().item() if exact.numel() else 0.0
            allowed = 2 * _error(plain, exact) + 4 * torch.finfo(x.dtype).eps * largest
            error = _error(x, exact)
            if not error <= allowed:
                return f"{name} differs by {error:.2g}, allowed {allowed:.2g}, its largest entry is {largest:.2g}"
        return None

    def difference(self, found: Sequence[Tensor]) -> str | None:
        """Describes the first difference of a peer's results; None if they agree."""
        for name, x, exact in zip(self.names, found, self.exact, strict=False):
            # the gradient of a table sums thousands of terms in the peer's own precision
            if not _is_of_image(exact) and x.dtype in (torch.float16, torch.bfloat16):
                continue
            share = ((x.double() - exact).norm() / exact.norm()).item()
            if not share <= PEER_TOLERANCE[x.dtype]:
                return f"{name} differs by {share:.2g} of its norm"
        return None


def forward(function: Function, inputs: Sequence[Tensor]) -> Tensor:
    """Calls a function without gradients."""
    with torch.no_grad():
        return function(*inputs)


def gradients(function: Function, inputs: Sequence[Tensor], upstream: Tensor) -> list[Tensor]:
    """Returns the output, and the gradient of every input that requires one."""
    out = function(*inputs)
    wanted = [x for x in inputs if x.requires_grad]
    return [out.detach(), *torch.autograd.grad(out, wanted, upstream)]


def check_peer(truth: Truth, peer: Peer, inputs: Sequence[Tensor], is_training: bool) -> tuple[Function, str | None]:
    """Builds a peer's function, and describes how its results differ; None if they agree."""
    function = peer.build()
    if peer.prepare is None or peer.restore is None:
        return function, truth.difference(truth.of(function, inputs, is_training))
    with torch.no_grad():
        out = peer.restore(function(*peer.prepare(inputs)))
    return function, truth.difference([out[-1:]])


def complaint_on_random_shape(operator: Operator, dtype: torch.dtype, device: torch.device, seed: int) -> str | None:
    """Runs an operator on a random shape, and describes its first error; None if there is none."""
    shape = operator.random_shape(random.Random(seed))
    try:
        inputs = shape.inputs(dtype, device)
        truth = Truth(shape, inputs)
        complaint = truth.complaint(truth.of(shape.call(None), inputs, is_training=True))
    except Exception as error:  # an operator that raises on a shape is wrong there
        complaint = reason(error)
    return complaint and f"{operator.name} {shape.name} width {shape.width} {str(dtype)[6:]}: {complaint}"


def sweep(
    tested: Sequence[Operator], dtypes: Sequence[torch.dtype], device: torch.device, count: int, budget: Budget
) -> tuple[int, list[str]]:
    """Runs every operator in every dtype on `count` random shapes, or until the budget is spent.

    Returns:
        The number of runs, and a sentence for each run with a wrong result.
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
    """Whether the first axis is the batch: true for maps (B, H, W, .., h, D) and routes, false for tables."""
    return x.ndim > 4 or not x.is_floating_point()


def _error(x: Tensor, exact: Tensor) -> float:
    if not x.numel():
        return 0.0
    return (x.double() - exact).abs().nan_to_num(torch.inf).max().item()
