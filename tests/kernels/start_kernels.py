"""Starts every kernel as its operator does, up to the launch itself: no device is needed.

Run as a script without Triton's interpreter, with the root of the clone on PYTHONPATH. The installed Triton specializes
the arguments and compiles for sm90; nothing is computed. Prints one line per start that failed, then the number of
starts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch
import triton
from operator_examples import Halo, Neighborhood, Routed, Window

from attnzoo.kernels import (
    backends,
    halo_attention,
    neighborhood_attention,
    neighborhood_av,
    neighborhood_qk,
    routed_attention,
    window_attention,
)
from benchmarks.triton_compile import TARGETS, AbsentDevice

# width 13 is padded; sizes, heads, widths and images of 1 are what Triton makes constants of
SMALL = {"size": (14, 9), "batch": 2, "heads": 2, "width": 32, "value_width": 32}
ONES = {"size": (1, 9), "batch": 1, "heads": 1, "width": 13, "value_width": 1}
ROW = {"size": (9, 1), "batch": 1, "heads": 2, "width": 1, "value_width": 1}


def without_device() -> list[str]:
    """Lets launches end where the driver would take over; returns the growing list of started kernels."""
    started: list[str] = []
    run = triton.runtime.jit.JITFunction.run

    def compile_only(kernel, *arguments, grid, warmup, **constants):
        compiled = run(kernel, *arguments, grid=grid, warmup=True, **constants)
        started.append(kernel.__name__)
        return compiled

    triton.runtime.jit.JITFunction.run = compile_only
    triton.runtime.driver.set_active(AbsentDevice(TARGETS["sm90"]))
    backends._triton_obstacle = lambda tensors: None
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
            case = Routed(name, regions=1, topk=1, **sizes)
            yield name, routed_attention, {**case.inputs(dtype), "routes": case.routes()}, {"regions": 1}
            case = Halo(name, block=4, halo=1, tables="rows, columns" if sizes is SMALL else "rows", **sizes)
            yield name, halo_attention, case.inputs(dtype), case.arguments
    if is_full:
        case = Neighborhood("strided", kernel=3, dilation=(2, 3), stride=2, is_causal=(True, False), **SMALL)
        yield "strided", neighborhood_attention, case.inputs("attention", torch.bfloat16), case.window
        case = Window("packed", window=4, layout="packed", **SMALL)
        yield "packed", window_attention, case.inputs(torch.bfloat16), case.arguments
        case = Window("batch 0", window=4, **{**SMALL, "batch": 0})
        yield "batch 0", window_attention, case.inputs(torch.bfloat16), case.arguments


def obstacle(operator: object, tensors: dict[str, torch.Tensor], arguments: dict[str, object]) -> str | None:
    """Starts the kernels of a call, forward and backward; returns the cause of a failure, or None."""
    try:
        out = operator(**tensors, **arguments, backend="triton")
        out.backward(torch.ones_like(out))
    except Exception as error:  # a compiler's errors have no common base class
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        return repr(cause)[:300]
    return None


def main(is_full: bool) -> int:
    """Starts all of them; returns the number of failures."""
    started, failures = without_device(), 0
    for name, operator, tensors, arguments in calls(is_full):
        cause = obstacle(operator, tensors, arguments)
        if cause is not None:
            failures += 1
            print(f"{operator.__name__} {name}: {cause}")
    print(f"Triton {triton.__version__}: {len(started)} starts of {len(set(started))} kernels, {failures} failures")
    return failures


if __name__ == "__main__":
    sys.exit(bool(main("--full" in sys.argv)))
