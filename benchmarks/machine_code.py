"""Instructions of a compiled kernel, counted in its machine code (SASS), and the time that issuing them takes.

A multiprocessor issues one instruction per clock and scheduler, so the number of executed instructions gives a lower
bound of the time, as the bytes that a kernel moves do.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# H100 and H200 SXM: multiprocessors, schedulers of each, and the boost clock in Hz
ISSUED_PER_SECOND = 132 * 4 * 1.755e9
LANES = 32


class Loop(NamedTuple):
    """A loop in a list of instructions: the indices of its first and last instruction."""

    first: int
    last: int

    def contains(self, other: Loop) -> bool:
        """Returns whether another loop is inside of this one."""
        return self != other and self.first <= other.first and other.last <= self.last


class Instructions(NamedTuple):
    """Number of instructions of a kernel, by the loop that they are in.

    Attributes:
        outside: instructions outside of all loops.
        outer: instructions of loops that contain other loops, without those of the inner loops.
        inner: instructions of the longest innermost loop, in another loop if there is one.
        other: instructions of the other innermost loops.
    """

    outside: int
    outer: int
    inner: int
    other: int

    def executed(self, trips: Sequence[float]) -> float:
        """Returns the instructions that a warp executes.

        Args:
            trips: iterations of the inner loop, and before these those of the loop around it, if there is one.
        """
        inner = trips[-1]
        outer = trips[0] if len(trips) > 1 else 1
        return self.outside + self.outer * outer + self.inner * outer * inner + self.other * inner


def count(assembly: str) -> Instructions:
    """Counts the instructions in the output of `nvdisasm -c`. A loop is a jump back to a label."""
    labels: dict[str, int] = {}
    found: list[str] = []
    for line in assembly.splitlines():
        label, instruction = re.match(r"\s*(\.L\w+):", line), re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(.*?);", line)
        if label:
            labels[label[1]] = len(found)
        elif instruction:
            found.append(instruction[1])
    loops = []
    for i, text in enumerate(found):
        jump = re.search(r"\bBRA\b.*?(\.L\w+)", text)
        # a jump to itself ends every kernel
        if jump and labels.get(jump[1], i) < i:
            loops.append(Loop(labels[jump[1]], i))
    innermost = [loop for loop in loops if not any(loop.contains(other) for other in loops)]
    lengths = dict.fromkeys(loops, 0)
    outside = 0
    for i, text in enumerate(found):
        if text.startswith("NOP"):
            continue
        around = [loop for loop in loops if loop.first <= i <= loop.last]
        if around:
            lengths[min(around, key=lambda loop: loop.last - loop.first)] += 1
        else:
            outside += 1
    nested = [loop for loop in innermost if any(other.contains(loop) for other in loops)]
    inner = max((lengths[loop] for loop in nested or innermost), default=0)
    outer = sum(lengths[loop] for loop in loops if loop not in innermost)
    return Instructions(outside, outer, inner, sum(lengths[loop] for loop in innermost) - inner)


def spilled_bytes(assembly: str) -> int:
    """Returns the bytes per thread that instructions store to local memory and load from it: spilled registers."""
    return sum(int(bits or 32) // 8 for bits in re.findall(r"\b(?:STL|LDL)(?:\.LU)?(?:\.(64|128))?\b", assembly))


def disassemble(cubin: bytes, tool: str) -> str:
    """Returns the machine code of a cubin as text; `tool` is the path of nvdisasm."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        done = subprocess.run([tool, "-c", str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"nvdisasm failed: {done.stderr.strip()}")
    return done.stdout


def issue_milliseconds(executed: int, num_warps: int, programs: int) -> float:
    """Returns the time to issue the instructions that each warp of some programs executes, on an H100 or H200."""
    return 1e3 * executed * num_warps * programs / ISSUED_PER_SECOND
