"""Launches of Triton kernels, made by every operator and read by the offline compiler.

A `Launch` is a kernel with its arguments, independent of a device. `Launch.run` starts it on the device of its tensors.
The static benchmark compiles the same object for architectures that are not present.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from .fallback import KernelError

# keys of the configuration tables; the interpreter uses the first
ARCHITECTURES = ("sm90", "sm80", "sm100", "gfx942")
# multiplications and additions may be fused, regardless of Triton's default
OPTIONS = {"enable_fp_fusion": True}
VERSION = tuple(map(int, triton.__version__.split(".")[:2]))
# Triton before 3.8 takes the content of a constant tuple for run-time values
_WRAPS_CONSTANTS = VERSION < (3, 8)
# tables have one entry per width, for heads of up to this many channels
WIDTHS = (32, 64, 128, 256)


class Configuration(NamedTuple):
    """Configuration of a kernel for a device: compile-time constants and compiler options.

    Attributes:
        constants: tile sizes and similar constants, by the kernel's argument names.
        num_warps: warps per program, a power of two.
        num_stages: depth of the software pipeline of loops.
    """

    constants: Mapping[str, int]
    num_warps: int = 4
    num_stages: int = 2


@dataclass(frozen=True)
class Launch:
    """A kernel and all its launch arguments.

    Attributes:
        kernel: a `triton.jit` function.
        grid: function that returns the number of programs from the constants of the configuration.
        arguments: run-time arguments by name: tensors, numbers, None, or (named) tuples of them.
        constants: compile-time arguments that the problem determines, by name.
        configuration: compile-time arguments and options chosen for the device.
        alternatives: function that returns other configurations with the same result, for tuning on request.
    """

    kernel: Any
    grid: Callable[[Mapping[str, int]], int]
    arguments: Mapping[str, Any]
    constants: Mapping[str, Any]
    configuration: Configuration
    alternatives: Callable[[], Sequence[Configuration]] = tuple

    @property
    def compiled_constants(self) -> Mapping[str, Any]:
        """The constants as the compiler of the installed Triton takes them."""
        if not _WRAPS_CONSTANTS or is_interpreted():
            return self.constants
        return {name: constant(x) for name, x in self.constants.items()}

    @property
    def programs(self) -> int:
        """Number of programs in the chosen configuration."""
        return self.grid(self.configuration.constants)

    @property
    def values(self) -> list[Any]:
        """All arguments in the order of the kernel's signature, in the chosen configuration."""
        named = {**self.arguments, **self.compiled_constants, **self.configuration.constants}
        return [named[name] for name in self.kernel.arg_names]

    def run(self) -> Any:
        """Starts the kernel on the current device; does nothing for an empty grid.

        Returns:
            The compiled kernel, or None in the interpreter, while tuning and for an empty grid.

        Raises:
            KernelError: the kernel could not be compiled or launched.
        """
        programs = self.programs
        if programs == 0:
            return None
        try:
            return self._start(programs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a compiler's errors have no common base class
            raise KernelError(self.kernel.__name__, error) from error

    def _start(self, programs: int) -> Any:
        constants, num_warps, num_stages = self.configuration
        alternatives = self.alternatives() if is_tuning() else ()
        if alternatives:
            self._run_tuned((self.configuration, *alternatives), programs)
            return None
        return self.kernel[(programs,)](
            **self.arguments,
            **self.compiled_constants,
            **constants,
            num_warps=num_warps,
            num_stages=num_stages,
            **OPTIONS,
        )

    def _run_tuned(self, configurations: Sequence[Configuration], programs: int) -> None:
        key = self._tuning_key(programs)
        tuner = _tuners.get(key)
        if tuner is None:
            configs = [
                triton.Config(dict(constants), num_warps=num_warps, num_stages=num_stages)
                for constants, num_warps, num_stages in configurations
            ]
            tuner = _tuners[key] = triton.autotune(configs, key=[])(self.kernel)
        tuner[lambda constants: (self.grid(constants),)](**self.arguments, **self.compiled_constants, **OPTIONS)

    def _tuning_key(self, programs: int) -> tuple[Any, ...]:
        """Returns what a tuned configuration depends on: constants, dtypes, and the size of the map and of the call."""
        arguments = [x for name, x in self.arguments.items() if name != "map_shape"]
        dtypes = tuple(x.dtype for x in flat(arguments) if isinstance(x, Tensor))
        # sizes between two powers of two share a configuration
        sizes = tuple(x.bit_length() for x in (*flat((self.arguments.get("map_shape", ()),)), programs))
        return self.kernel, tuple(self.constants.items()), dtypes, sizes


_tuners: dict[tuple[Any, ...], Any] = {}


def flat(arguments: Iterable[Any]) -> Iterator[Any]:
    """Yields the arguments, with tuples flattened."""
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from flat(argument)
        else:
            yield argument


def constant(value: Any) -> Any:
    """Returns a compile-time argument as Triton before 3.8 needs it: what a tuple contains must be constants, too."""
    if not isinstance(value, tuple):
        return value
    parts = [triton.language.constexpr(constant(x)) for x in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)


def is_tuning() -> bool:
    """Returns whether configurations are timed on first use, which `ATTNZOO_AUTOTUNE=1` enables."""
    return os.environ.get("ATTNZOO_AUTOTUNE", "0") == "1" and not is_interpreted()


def is_interpreted() -> bool:
    """Returns whether kernels run in Triton's interpreter, on the CPU."""
    return bool(triton.knobs.runtime.interpret)


def architecture_of(device: torch.device) -> str:
    """Returns the key of a device in the configuration tables, one of `ARCHITECTURES`."""
    if device.type != "cuda":
        return ARCHITECTURES[0]
    if torch.version.hip:
        return "gfx942"
    major, _ = torch.cuda.get_device_capability(device)
    # all other capabilities use the entry with the smallest shared memory
    return {9: "sm90", 10: "sm100"}.get(major, "sm80")


def readable(x: Tensor) -> Tensor:
    """Returns the tensor itself if its channels are contiguous, whatever its other strides, else a contiguous copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def block(width: int) -> int:
    """Returns the smallest block of channels that holds `width` and that a matrix unit supports."""
    return max(16, triton.next_power_of_2(width))


def width_class(width: int) -> int:
    """Returns the index of the table entry for heads of `width` channels, see `WIDTHS`."""
    return next(place for place, largest in enumerate(WIDTHS) if width <= largest)
