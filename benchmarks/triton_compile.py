"""Compiles a launch for a GPU that need not be present, and reads the resources that it uses."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget

from attnzoo.kernels.triton_launch import OPTIONS, Configuration, Launch, is_interpreted

from .machine_code import Instructions, count, disassemble, spilled_bytes

TARGETS = {
    "sm80": GPUTarget("cuda", 80, 32),
    "sm90": GPUTarget("cuda", 90, 32),
    "sm100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
# the newest instructions first: a kernel that uses them may also contain older ones
MATRIX_UNITS = {"tcgen05": r"tcgen05\.mma", "wgmma": r"wgmma\.mma_async", "mma": r"\bmma\.sync", "mfma": r"\bv_mfma_"}


class Limits(NamedTuple):
    """Resources of a multiprocessor, in allocation units.

    Attributes:
        registers: 32-bit registers per lane, for all warps that share a register file.
        register_step: granularity of a warp's registers per lane.
        warps: maximal number of warps that share a register file.
        files: register files of the multiprocessor.
        programs: maximal number of resident programs.
        shared: bytes of shared memory.
        shared_of_program: maximal bytes of shared memory for one program.
        shared_reserved: bytes of shared memory that the system reserves for each program.
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
    """Resources that a compiled kernel uses.

    Attributes:
        registers: 32-bit registers per thread.
        spilled_bytes: bytes per thread of register spills, stores and loads together.
        stack_bytes: stack bytes per thread.
        shared_bytes: bytes of shared memory per program.
        matrix_unit: name of the matrix instruction; None if there is none.
        spilled_scalars: on AMD, scalar registers of a wave that spill to vector registers, without memory traffic.
        instructions: on NVIDIA, the instructions by loop.
    """

    registers: int
    spilled_bytes: int
    stack_bytes: int
    shared_bytes: int
    matrix_unit: str | None
    spilled_scalars: int = 0
    instructions: Instructions | None = None


class AbsentDevice:
    """Replaces Triton's driver: it tells the JIT the target to compile for, and runs nothing."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    def get_current_target(self) -> GPUTarget:
        """Returns the target to compile for."""
        return self.target

    def get_current_device(self) -> str:
        """Returns a key for each target, by which Triton caches compiled kernels."""
        return str(self.target)

    def get_current_stream(self, device: str) -> int:
        """Returns the default stream."""
        return 0


def compile_for(launch: Launch, configuration: Configuration, architecture: str) -> Resources:
    """Compiles a launch on meta tensors, with the specialization that the JIT does on the GPU itself.

    After this call the process cannot launch kernels, because Triton's driver is replaced.

    Args:
        launch: the kernel and its arguments.
        configuration: a configuration of the launch.
        architecture: a key of `TARGETS`.

    Raises:
        RuntimeError: Triton's interpreter is on in this process.
    """
    if is_interpreted():
        raise RuntimeError("Triton's interpreter is on in this process: unset TRITON_INTERPRET")
    triton.runtime.driver.set_active(AbsentDevice(TARGETS[architecture]))
    constants, num_warps, num_stages = configuration
    arguments = {**launch.arguments, **launch.compiled_constants, **constants}
    compiled = launch.kernel.warmup(grid=(1,), **arguments, num_warps=num_warps, num_stages=num_stages, **OPTIONS)
    if architecture.startswith("gfx"):
        return amd_resources(compiled.asm["amdgcn"], compiled.metadata.shared)
    return _nvidia_resources(compiled)


def occupancy(resources: Resources, num_warps: int, architecture: str) -> float:
    """Estimates the share of a multiprocessor's warps that registers, shared memory and warps per program allow."""
    limits = LIMITS[architecture]
    step = limits.register_step
    registers = max(step, -(-resources.registers // step) * step)
    # the warps of a program are distributed over the register files
    by_registers = min(limits.warps, limits.registers // registers) * limits.files // num_warps
    by_shared = limits.shared // max(1, resources.shared_bytes + limits.shared_reserved)
    programs = min(by_registers, by_shared, limits.programs)
    return programs * num_warps / (limits.warps * limits.files)


def amd_resources(assembly: str, shared_bytes: int) -> Resources:
    """Reads the resources from the metadata at the end of AMD's assembly."""
    return Resources(
        # both halves of the unified register file
        registers=_number(r"\.vgpr_count:\s*(\d+)", assembly),
        spilled_bytes=4 * _number(r"\.vgpr_spill_count:\s*(\d+)", assembly),
        stack_bytes=_number(r"\.private_segment_fixed_size:\s*(\d+)", assembly),
        shared_bytes=shared_bytes,
        matrix_unit=matrix_unit(assembly),
        spilled_scalars=_number(r"\.sgpr_spill_count:\s*(\d+)", assembly),
    )


def cubin_resources(output: str) -> tuple[int, int]:
    """Reads registers and stack from the output of `cuobjdump --dump-resource-usage`."""
    return _number(r"REG:(\d+)", output), _number(r"STACK:(\d+)", output)


def matrix_unit(assembly: str) -> str | None:
    """Returns the name of the newest matrix instruction in an assembly; None if there is none."""
    return next((name for name, pattern in MATRIX_UNITS.items() if re.search(pattern, assembly)), None)


def _nvidia_resources(compiled: Any) -> Resources:
    tools = triton.knobs.nvidia
    with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
        Path(cubin.name).write_bytes(compiled.asm["cubin"])
        registers, stack = cubin_resources(_output(tools.cuobjdump.path, "--dump-resource-usage", cubin.name))
    assembly = disassemble(compiled.asm["cubin"], tools.nvdisasm.path)
    unit = matrix_unit(compiled.asm["ptx"])
    shared = compiled.metadata.shared
    return Resources(registers, spilled_bytes(assembly), stack, shared, unit, instructions=count(assembly))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no match for {pattern!r} in the report of the compiler")
    return int(found[1])
