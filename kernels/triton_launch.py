"""How a Triton kernel is started: what every operator's launcher gives, and what the offline compiler reads.

A `Launch` is a kernel with its arguments, before any machine is involved. `Launch.run` starts it on the tensors'
device; the static benchmark compiles the same object for architectures that are not there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

# tables of configurations are keyed by these; the interpreter uses the first
ARCHITECTURES = ("sm90", "sm80", "sm100", "gfx942")
# multiplications and additions may be fused, whatever Triton's default is
OPTIONS = {"enable_fp_fusion": True}
# tables have an entry for heads of up to so many channels
WIDTHS = (32, 64, 128, 256)


class Configuration(NamedTuple):
    """How a kernel is cut for a machine: its own compile-time constants, and the compiler's options.

    Attributes:
        constants: tile sizes and the like, by the kernel's argument names.
        num_warps: warps of a program, a power of two.
        num_stages: depth of the software pipeline of its loops.
    """

    constants: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 2


@dataclass(frozen=True)
class Launch:
    """A kernel and everything it is started with.

    Attributes:
        kernel: a `triton.jit` function.
        grid: number of programs, from the configuration's constants.
        arguments: run-time arguments by name: tensors, numbers, None, or (named) tuples of them.
        constants: compile-time arguments that the problem fixes, by name.
        configuration: the compile-time arguments and options that were chosen for the machine.
        alternatives: makes configurations that give the same result, for those who opt into tuning.
    """

    kernel: Any
    grid: Callable[[Mapping[str, int]], int]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    configuration: Configuration
    alternatives: Callable[[], Sequence[Configuration]] = tuple

    def run(self) -> None:
        """Starts the kernel on the device of its tensors; nothing happens for an empty grid."""
        constants, num_warps, num_stages = self.configuration
        programs = self.grid(constants)
        if programs == 0:
            return
        first = next(x for x in flat(self.arguments.values()) if isinstance(x, Tensor))
        with torch.cuda.device_of(first):
            alternatives = self.alternatives() if is_tuning() else ()
            if alternatives:
                self._run_tuned((self.configuration, *alternatives))
                return
            self.kernel[(programs,)](
                **self.arguments, **self.constants, **constants, num_warps=num_warps, num_stages=num_stages, **OPTIONS
            )

    def _run_tuned(self, configurations: Sequence[Configuration]) -> None:
        configs = [
            triton.Config(dict(constants), num_warps=num_warps, num_stages=num_stages)
            for constants, num_warps, num_stages in configurations
        ]
        tuner = _tuners.get(self.kernel)
        if tuner is None:
            key = list(self.constants)
            # what the interpreter runs has no compiled form that a file could be found by
            on_disk = not is_interpreted()
            tuner = _tuners[self.kernel] = triton.autotune(configs, key=key, cache_results=on_disk)(self.kernel)
        tuner.configs = configs
        tuner[lambda constants: (self.grid(constants),)](**self.arguments, **self.constants, **OPTIONS)


_tuners: dict[Any, Any] = {}


def flat(arguments: Iterable[Any]) -> Iterator[Any]:
    """The entries of arguments and of the tuples among them."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from flat(argument)
        else:
            yield argument


def is_tuning() -> bool:
    """Whether the user has opted into timing the configurations on first use: `ATTNZOO_AUTOTUNE=1`."""
    return os.environ.get("ATTNZOO_AUTOTUNE", "0") == "1" and not is_interpreted()


def is_interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def architecture_of(device: torch.device) -> str:
    """The key of a device in the tables of configurations, one of `ARCHITECTURES`."""
    if device.type != "cuda":
        return ARCHITECTURES[0]
    if torch.version.hip:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    # what is between and beyond has the shared memory of the smallest
    return {9: "sm90", 10: "sm100"}.get(major, "sm80")


def precision_of(dtype: torch.dtype) -> str:
    """How float32 operands are multiplied: exactly, unless torch's own setting for matrix products allows TF32."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return "ieee"


def readable(x: Tensor) -> Tensor:
    """The tensor itself where kernels can read it in place, with any strides but channels side by side; else a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def block(width: int) -> int:
    """Smallest block of channels that holds `width` and that a matrix unit takes."""
    return max(16, triton.next_power_of_2(width))


def width_class(width: int) -> int:
    """The place of the entry for heads of `width` channels, see `WIDTHS`."""
    return next(place for place, largest in enumerate(WIDTHS) if width <= largest)
