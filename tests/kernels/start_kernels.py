"""Starts every kernel as its operator does, through Triton's own launcher; no device is needed.

Run as a script without Triton's interpreter, with the root of the clone on PYTHONPATH. The installed Triton specializes
the arguments, compiles for sm90 and hands the parameters to a driver that records them; nothing is computed. Each call
is made three times: the second one repeats what the first one prepared, and the third one finds it without any check.
Without a C compiler, a start ends where the driver would take over. Prints one line per call that failed, then the
number of starts.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import triton
from operator_examples import Halo, Neighborhood, Routed, Scan, Window

from attnzoo.kernels import (
    backends,
    halo_attention,
    neighborhood_attention,
    neighborhood_av,
    neighborhood_qk,
    packed_neighborhood_attention,
    packed_window_attention,
    routed_attention,
    selective_scan,
    window_attention,
)
from benchmarks.recording_driver import Recorder, compiler
from benchmarks.triton_compile import TARGETS, AbsentDevice

# width 13 is padded; sizes, heads, widths and images of 1 are what Triton makes constants of
SMALL = {"size": (14, 9), "batch": 2, "heads": 2, "width": 32, "value_width": 32}
ONES = {"size": (1, 9), "batch": 1, "heads": 1, "width": 13, "value_width": 1}
ROW = {"size": (9, 1), "batch": 1, "heads": 2, "width": 1, "value_width": 1}


def without_driver() -> list[str]:
    """Lets launches end where the driver would take over; returns the growing list of started kernels."""
    started: list[str] = []
    run = triton.runtime.jit.JITFunction.run

    def compile_only(kernel, *arguments, grid, warmup, **constants):
        run(kernel, *arguments, grid=grid, warmup=True, **constants)
        started.append(kernel.__name__)

    triton.runtime.jit.JITFunction.run = compile_only
    triton.runtime.driver.set_active(AbsentDevice(TARGETS["sm90"]))
    return started


def calls(is_full: bool) -> Iterator[tuple[str, object, dict[str, torch.Tensor], dict[str, object]]]:
    """Yields a name, an operator, its tensors and its other arguments."""
    dtypes = (torch.bfloat16, torch.float16, torch.float32) if is_full else (torch.bfloat16,)
    for sizes in (SMALL, ONES, ROW) if is_full else (SMALL, ONES):
        kernel = min(3, sizes["size"][0]), min(3, sizes["size"][1])
        for dtype in dtypes:
            name = f"{sizes['size']} {dtype}"
            for has_bias in (True, False) if is_full else (True,):
                case = Neighborhood(name, kernel=kernel, has_bias=has_bias, **sizes)
                yield name, neighborhood_attention, case.inputs("attention", dtype), case.window
                for window in (5, 16):
                    case = Window(name, window=window, shift=window // 2, has_bias=has_bias, **sizes)
                    yield name, window_attention, case.inputs(dtype), case.arguments
            case = Neighborhood(name, kernel=kernel, **sizes)
            yield name, neighborhood_qk, case.inputs("qk", dtype), case.window
            yield name, neighborhood_av, case.inputs("av", dtype), case.window
            qkv = torch.randn(sizes["batch"], *sizes["size"], 3, sizes["heads"], sizes["width"]).to(dtype)
            yield name, packed_neighborhood_attention, {"qkv": qkv.requires_grad_()}, {"kernel_size": kernel}
            yield name, packed_window_attention, {"qkv": qkv.detach().requires_grad_()}, {"window_size": 5}
            case = Routed(name, regions=1, topk=1, **sizes)
            yield name, routed_attention, {**case.inputs(dtype), "routes": case.routes()}, {"regions": 1}
            case = Halo(name, block=4, halo=1, tables="rows, columns" if sizes is SMALL else "rows", **sizes)
            yield name, halo_attention, case.inputs(dtype), case.arguments
            lengths = {"steps": sizes["size"][0] * sizes["size"][1], "width": sizes["width"], "state": sizes["heads"]}
            case = Scan(name, batch=sizes["batch"], heads=sizes["heads"], shared="u, A", **lengths)
            yield name, selective_scan, case.inputs(dtype), case.arguments
    if is_full:
        case = Neighborhood("strided", kernel=3, dilation=(2, 3), stride=2, is_causal=(True, False), **SMALL)
        yield "strided", neighborhood_attention, case.inputs("attention", torch.bfloat16), case.window
        case = Window("packed", window=4, layout="packed", **SMALL)
        yield "packed", window_attention, case.inputs(torch.bfloat16), case.arguments
        case = Window("batch 0", window=4, **{**SMALL, "batch": 0})
        yield "batch 0", window_attention, case.inputs(torch.bfloat16), case.arguments


def run(operator: object, tensors: dict[str, torch.Tensor], arguments: dict[str, object]) -> Iterator[None]:
    """Starts the kernels of a call: yields after those of the forward pass, and after those of the backward pass."""
    out = operator(**tensors, **arguments, backend="triton")
    yield
    out.backward(torch.ones_like(out))
    yield


def other_like(x: torch.Tensor) -> torch.Tensor:
    """Returns another tensor with the values and strides of one, which may be a part of a packed projection."""
    size = 1 + sum((length - 1) * stride for length, stride in zip(x.shape, x.stride(), strict=True))
    memory = x.new_empty(max(size, 0)).as_strided(x.shape, x.stride())
    return memory.copy_(x.detach()).requires_grad_(x.requires_grad)


def obstacle(
    operator: object, tensors: dict[str, torch.Tensor], arguments: dict[str, object], starts: list[Any]
) -> str | None:
    """Starts the kernels of a call three times, for different tensors; returns the cause of a failure, or None."""
    repeats = [{name: other_like(x) for name, x in tensors.items()} for _ in range(2)]
    ends = [len(starts)]
    try:
        for given in (tensors, *repeats):
            ends += [len(starts) for _ in run(operator, given, arguments)]
    except Exception as error:  # a compiler's errors have no common base class
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return repr(cause)[:300]
    if isinstance(starts[-1], str):
        # nothing arrived at a driver
        return None
    # forward and backward of the first call, then of each repetition
    forward, backward, *others = [starts[begin:end] for begin, end in itertools.pairwise(ends)]
    for repeat, forward_again, backward_again in zip(repeats, others[::2], others[1::2], strict=True):
        moved = {x.data_ptr(): repeat[name].data_ptr() for name, x in tensors.items()}
        for once, again in ((forward, forward_again), (backward, backward_again)):
            changed = difference(once, again, moved)
            if changed is not None:
                return changed
    return None


def difference(first: list[Any], second: list[Any], moved: dict[int, int]) -> str | None:
    """Returns how a repeated call differs from the first, or None: only addresses may, each in one way.

    Args:
        first, second: launches of both calls.
        moved: the address of each tensor of the repeated call, by that in the first.
    """
    if len(first) != len(second):
        return f"the first call starts {len(first)} kernels and a repeated one {len(second)}"
    moved = dict(moved)
    for once, twice in zip(first, second, strict=True):
        if once[:4] != twice[:4] or once.pointers != twice.pointers:
            return f"{once[:4]} is started as {twice[:4]} by a repeated call"
        for x, y, is_pointer in zip(once.parameters, twice.parameters, once.pointers, strict=True):
            if (moved.setdefault(x, y) if is_pointer else x) != y:
                return f"{once.kernel} is given {y} instead of {moved.get(x, x)} by a repeated call"
    return None


def main(is_full: bool) -> int:
    """Starts all of them; returns the number of failures."""
    failures = 0
    backends._triton_obstacle = lambda tensors: None
    with tempfile.TemporaryDirectory() as folder:
        starts = Recorder(Path(folder)).starts if compiler() else without_driver()
        for name, operator, tensors, arguments in calls(is_full):
            cause = obstacle(operator, tensors, arguments, starts)
            if cause is not None:
                failures += 1
                print(f"{operator.__name__} {name}: {cause}")
        kernels = {start if isinstance(start, str) else start.kernel for start in starts}
        print(f"Triton {triton.__version__}: {len(starts)} starts of {len(kernels)} kernels, {failures} failures")
    return failures


if __name__ == "__main__":
    sys.exit(bool(main("--full" in sys.argv)))
