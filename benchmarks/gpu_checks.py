"""Checks of the kernels on a GPU, for `gpu_run.sh`: `python benchmarks/gpu_checks.py tiny|sweep|graph|compile|stage`.

Each check prints a line; the exit status is not 0 if one failed.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable

import timm
import torch
from torch import Tensor

import attnzoo  # noqa: F401  (registers the models)
from benchmarks.correctness import Truth
from benchmarks.operators import Operator, operators

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BACKEND = "triton" if DEVICE.type == "cuda" else None


def tiny() -> None:
    """Each operator once on a small irregular shape, forward and backward: short enough for a sanitizer."""
    for operator in operators():
        _compare(operator, random.Random(0), torch.bfloat16)


def sweep(count: int = 40) -> None:
    """Random small shapes of each operator and dtype against the reference in float64, with gradients."""
    for operator in operators():
        for seed in range(count):
            _compare(operator, random.Random(seed), DTYPES[seed % len(DTYPES)])


def _compare(operator: Operator, generator: random.Random, dtype: torch.dtype) -> None:
    shape = operator.random_shape(generator)
    inputs = shape.inputs(dtype, DEVICE)
    truth = Truth(shape, inputs)
    complaint = truth.complaint(truth.of(shape.call(BACKEND), inputs, is_training=True))
    if complaint is not None:
        raise AssertionError(f"{operator.name} {shape.name} {dtype}: {complaint}")


def graph() -> None:
    """A forward pass that is captured in a CUDA graph gives the same output when it is replayed."""
    model = timm.create_model("nat_pico").to(DEVICE).eval()
    images = torch.randn(2, 3, 64, 64, device=DEVICE)
    with torch.no_grad():
        expected = [model(x) for x in (images, -images)]
        if DEVICE.type != "cuda":
            return
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            out = model(images)
        for x, true in zip((images.clone(), -images), expected, strict=True):
            images.copy_(x)
            captured.replay()
            torch.testing.assert_close(out, true)


def compile() -> None:
    """Compiled models give the logits and gradients of eager ones."""
    for name in ("nat_pico", "swin_pico"):
        model = timm.create_model(name).to(DEVICE).eval()
        images = torch.randn(2, 3, 64, 64, device=DEVICE)
        expected, found = (_logits_and_gradients(f, model, images) for f in (model, torch.compile(model)))
        for true, ours in zip(expected, found, strict=True):
            torch.testing.assert_close(ours, true, rtol=1e-3, atol=1e-3)


def _logits_and_gradients(call: Callable[[Tensor], Tensor], model: torch.nn.Module, images: Tensor) -> list[Tensor]:
    model.zero_grad()
    logits = call(images)
    logits.square().sum().backward()
    return [logits.detach(), *(x.grad.clone() for x in model.parameters() if x.grad is not None)]


def stage() -> None:
    """The first stages of NAT-Tiny and Swin-Tiny at batch 128, forward and backward, for a profiler."""
    for operator in operators()[:2]:
        shape = max((x for x in operator.cuda_shapes if x.image == 224), key=lambda x: (x.batch, x.size))
        inputs = shape.inputs(torch.bfloat16, DEVICE)
        shape.call(BACKEND)(*inputs).sum().backward()


def main(names: list[str]) -> int:
    """Runs the checks of these names; returns the number that failed."""
    checks = {check.__name__: check for check in (tiny, sweep, graph, compile, stage)}
    unknown = [name for name in names if name not in checks]
    if unknown or not names:
        print(f"usage: python benchmarks/gpu_checks.py {'|'.join(checks)}...", file=sys.stderr)
        return 2
    return sum(not _passes(name, checks[name]) for name in names)


def _passes(name: str, check: Callable[[], None]) -> bool:
    try:
        check()
    except Exception:  # the other checks still run
        print(f"{name}: failed\n{traceback.format_exc()}", flush=True)
        return False
    print(f"{name}: passed on {DEVICE}", flush=True)
    return True


if __name__ == "__main__":
    sys.exit(min(main(sys.argv[1:]), 2))
