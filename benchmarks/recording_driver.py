"""Drives Triton's own launcher on a machine without a GPU: a stand-in for libcuda reports what launches are given.

The stand-in is compiled from `recording_driver.c`, so a C compiler is needed; Triton's launcher needs one, too. To be
used in a process of its own, before anything else loads the driver.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton

_REPORT = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_uint, ctypes.POINTER(ctypes.c_void_p)
)


class Start(NamedTuple):
    """What the driver was given for a launch.

    Attributes:
        kernel: name of the kernel.
        grid: number of programs.
        threads: threads of a program.
        shared: bytes of shared memory of a program.
        parameters: the parameters, as unsigned integers.
        pointers: which of them are addresses of tensors.
    """

    kernel: str
    grid: int
    threads: int
    shared: int
    parameters: tuple[int, ...]
    pointers: tuple[bool, ...]


class Recorder:
    """The launches that arrived at the driver, and how Python's arguments should have arrived.

    Args:
        folder: an empty folder for the compiled stand-in.
    """

    def __init__(self, folder: Path) -> None:
        self.starts: list[Start] = []
        self._kernels: dict[int, tuple[str, list[tuple[int, bool]]]] = {}
        library = folder / "libcuda.so.1"
        source = Path(__file__).with_suffix(".c")
        command = [compiler(), "-shared", "-fPIC", f"-Wl,-soname,{library.name}", str(source), "-o", str(library)]
        subprocess.run(command, check=True)
        shutil.copy(library, folder / "libcuda.so")
        # found again by its name when Triton asks for it, and when Triton's launcher is linked
        self._library = ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
        os.environ["TRITON_LIBCUDA_PATH"] = str(folder)
        self._report = _REPORT(self._add)
        self._library.record(self._report)
        self._install()

    def _install(self) -> None:
        from triton.backends.nvidia.driver import CudaDriver

        # what torch answers on a machine with one device
        torch._C._cuda_getCurrentRawStream = lambda device: 0
        torch.cuda.get_device_capability = lambda device=None: (9, 0)
        torch.cuda.current_device = lambda: 0
        torch.cuda.set_device = lambda device: None
        driver = CudaDriver()
        driver.get_current_stream = lambda device: 0
        driver.get_current_device = lambda: 0
        driver.get_device_capability = lambda device: (9, 0)
        triton.runtime.driver.set_active(driver)
        launch = self._launch = triton.runtime.jit.JITFunction.run

        def run(kernel, *arguments, grid, warmup, **named):
            compiled = launch(kernel, *arguments, grid=grid, warmup=True, **named)
            compiled._init_handles()
            self._kernels[compiled.function] = kernel.__name__, parameters_of(compiled.asm["ptx"])
            before = len(self.starts)
            launch(kernel, *arguments, grid=grid, warmup=False, **named)
            (start,) = self.starts[before:]
            constants = {parameter.name for parameter in kernel.params if parameter.is_constexpr}
            values = [named[name] for name in kernel.arg_names if name not in constants]
            expected = [bits_of(x) for x in run_time_values(values)]
            # what follows belongs to Triton
            got = start.parameters[: len(expected)]
            masks = [(1 << 8 * size) - 1 for size, _ in parameters_of(compiled.asm["ptx"])]
            expected = tuple(x & mask for x, mask in zip(expected, masks, strict=False))
            assert got == expected, f"{kernel.__name__} was given {got} instead of {expected}"
            return compiled

        triton.runtime.jit.JITFunction.run = run

    def stop(self) -> None:
        """Stops recording: later launches reach the driver unseen and unchecked, at their full speed."""
        triton.runtime.jit.JITFunction.run = self._launch
        self._library.record(_REPORT())

    def _add(self, function: int, grid: int, threads: int, shared: int, parameters: Any) -> None:
        name, sizes = self._kernels[function]
        values = tuple(
            int.from_bytes(ctypes.string_at(parameters[index], size), "little") for index, (size, _) in enumerate(sizes)
        )
        self.starts.append(Start(name, grid, threads, shared, values, tuple(pointer for _, pointer in sizes)))


def compiler() -> str | None:
    """Returns the C compiler, or None if there is none."""
    return os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")


def parameters_of(ptx: str) -> list[tuple[int, bool]]:
    """Returns the size in bytes of each parameter of a kernel, and whether it is a pointer."""
    head = ptx[ptx.index(".visible .entry") :]
    head = head[: head.index(")")]
    return [(int(bits) // 8, ".ptr" in rest) for bits, rest in re.findall(r"\.param \.\w(\d+)(.*)", head)]


def run_time_values(arguments: Any) -> list[Any]:
    """Returns the values that are parameters of a kernel: Triton makes constants of None and 1."""
    values = []
    for x in arguments:
        if isinstance(x, tuple):
            values += run_time_values(x)
        elif x is not None and not (isinstance(x, int) and x == 1):
            values.append(x)
    return values


def bits_of(value: Any) -> int:
    """Returns a parameter as the driver receives it: an address, an integer, or the bits of a float32."""
    if isinstance(value, torch.Tensor):
        return value.data_ptr()
    return struct.unpack("<I", struct.pack("<f", value))[0] if isinstance(value, float) else value
