"""Compiling a launch for a machine that is not here, and reading what the compiler used."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget

from attnzoo.kernels.triton_launch import OPTIONS, Configuration, Launch, is_interpreted

TARGETS = {
    "sm80": GPUTarget("cuda", 80, 32),
    "sm90": GPUTarget("cuda", 90, 32),
    "sm100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# the newest instructions first: a kernel that has them uses the older ones only beside
MATRIX_UNITS = {"tcgen05": r"tcgen05\.mma", "wgmma": r"wgmma\.mma_async", "mma": r"\bmma\.sync", "mfma": r"\bv_mfma_"}


class Limits(NamedTuple):
    """What a multiprocessor has, in the units it is given out in.

    Attributes:
        registers: 32-bit registers of a lane's column, for all warps that share a register file.
        register_step: a warp's registers per lane are rounded up to this.
        warps: that share a register file, at most.
        files: register files of the multiprocessor.
        programs: resident at most.
        shared: bytes of shared memory.
        shared_of_program: of these, what one program may have.
        shared_reserved: taken from each program by the system.
    """

    registers: int
    register_step: int
    warps: int
    files: int
    programs: int
    shared: int
    shared_of_program: int
    shared_reserved: int


# CUDA C++ Programming Guide, technical specifications by compute capability; AMD CDNA3 ISA and HIP hardware tables
_NVIDIA = Limits(512, 8, 16, 4, 32, 228 << 10, 227 << 10, 1 << 10)
LIMITS = {
    "sm80": _NVIDIA._replace(shared=164 << 10, shared_of_program=163 << 10),
    "sm90": _NVIDIA,
    "sm100": _NVIDIA,
    "gfx942": Limits(512, 8, 8, 4, 32, 64 << 10, 64 << 10, 0),
}


class Resources(NamedTuple):
    """What a compiled kernel takes.

    Attributes:
        registers: 32-bit registers of a thread.
        spilled_bytes: of a thread, written to and read from memory for want of registers.
        stack_bytes: of a thread.
        shared_bytes: shared memory of a program.
        matrix_unit: the instruction that multiplies, None where there is none.
        spilled_scalars: scalar registers of a wave kept in lanes of vector registers, on AMD; they touch no memory.
    """

    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int
    matrix_unit: str | None
    spilled_scalars: int = 0


class _AbsentDevice:
    """Stands in for Triton's driver: the JIT asks it what to compile for, and never runs anything."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target)

    def get_current_stream(self, device: str) -> int:
        return 0


def compile_for(launch: Launch, configuration: Configuration, architecture: str) -> Resources:
    """Compiles a launch on meta tensors, specialized as the JIT specializes it on the machine itself.

    The process that calls this cannot start kernels any more, for Triton then has no device.

    Args:
        launch: the kernel and its arguments.
        configuration: one of the launch's.
        architecture: a key of `TARGETS`.

    Raises:
        RuntimeError: the process interprets kernels.
    """
    if is_interpreted():
        raise RuntimeError("kernels are interpreted in this process: start one without TRITON_INTERPRET")
    triton.runtime.driver.set_active(_AbsentDevice(TARGETS[architecture]))
    constants, num_warps, num_stages = configuration
    arguments = {**launch.arguments, **launch.constants, **constants}
    compiled = launch.kernel.warmup(grid=(1,), **arguments, num_warps=num_warps, num_stages=num_stages, **OPTIONS)
    if architecture.startswith("gfx"):
        return amd_resources(compiled.asm["amdgcn"], compiled.metadata.shared)
    return _nvidia_resources(compiled, architecture)


def occupancy(resources: Resources, num_warps: int, architecture: str) -> float:
    """Share of the warps a multiprocessor can hold that registers, shared memory and the kernel's own warps allow."""
    limits = LIMITS[architecture]
    step = limits.register_step
    registers = max(step, -(-resources.registers // step) * step)
    # a program's warps are spread over the register files
    by_registers = min(limits.warps, limits.registers // registers) * limits.files // num_warps
    by_shared = limits.shared // max(1, resources.shared_bytes + limits.shared_reserved)
    programs = min(by_registers, by_shared, limits.programs)
    return programs * num_warps / (limits.warps * limits.files)


def amd_resources(assembly: str, shared_bytes: int) -> Resources:
    """Reads the metadata that AMD's compiler writes at the end of the assembly."""
    return Resources(
        # of both halves of the unified file
        registers=_number(r"\.vgpr_count:\s*(\d+)", assembly),
        spilled_bytes=4 * _number(r"\.vgpr_spill_count:\s*(\d+)", assembly),
        stack_bytes=_number(r"\.private_segment_fixed_size:\s*(\d+)", assembly),
        shared_bytes=shared_bytes,
        matrix_unit=matrix_unit(assembly),
        spilled_scalars=_number(r"\.sgpr_spill_count:\s*(\d+)", assembly),
    )


def ptxas_spills(output: str) -> int:
    """Bytes that `ptxas -v` says are spilled, stores and loads together."""
    return sum(_number(rf"(\d+) bytes spill {kind}", output) for kind in ("stores", "loads"))


def cubin_resources(output: str) -> tuple[int, int]:
    """Registers and stack that `cuobjdump --dump-resource-usage` says a kernel has."""
    return _number(r"REG:(\d+)", output), _number(r"STACK:(\d+)", output)


def matrix_unit(assembly: str) -> str | None:
    """The name of the matrix instruction in an assembly, the newest where there are several."""
    return next((name for name, pattern in MATRIX_UNITS.items() if re.search(pattern, assembly)), None)


def _nvidia_resources(compiled: Any, architecture: str) -> Resources:
    tools = triton.knobs.nvidia
    # as Triton itself calls the assembler, but for the lines of the source
    assembler, target = tools.ptxas_blackwell, f"{architecture.replace('sm', 'sm_')}a"
    if architecture == "sm80":
        assembler, target = tools.ptxas, "sm_80"
    with tempfile.TemporaryDirectory() as folder:
        cubin, source = Path(folder, "kernel.cubin"), Path(folder, "kernel.ptx")
        cubin.write_bytes(compiled.asm["cubin"])
        source.write_text(compiled.asm["ptx"])
        registers, stack = cubin_resources(_output(tools.cuobjdump.path, "--dump-resource-usage", str(cubin)))
        flags = "-v", "--regAllocOptLevel=2", f"--gpu-name={target}"
        spilled = ptxas_spills(_output(assembler.path, *flags, str(source), "-o", f"{folder}/again"))
    return Resources(registers, spilled, stack, compiled.metadata.shared, matrix_unit(compiled.asm["ptx"]))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    # ptxas reports on one stream, cuobjdump on the other
    return done.stdout + done.stderr


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"the compiler's report has no {pattern!r}")
    return int(found[1])
