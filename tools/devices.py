"""The device that a command runs on: the key `device` of a training, the option `--device` of other commands."""

from __future__ import annotations

import torch

from attnzoo_command.devices import check_name

from .files import plural


def choose_device(name: str, process: int = 0, processes: int = 1) -> torch.device:
    """Returns the device of a name.

    Args:
        name: "auto" for a GPU if there is one (CUDA or ROCm, otherwise Apple's), or else the CPU; "cpu"; "cuda" for the
            GPU with the number of the process; "cuda:N"; "mps" for the GPU of a Mac.
        process: number of the process among those of this machine.
        processes: number of processes on all machines.

    Raises:
        ValueError: the name is none of these, or the device is not there.
    """
    check_name(name)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    has_mps = torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if found else "mps" if has_mps and processes == 1 else "cpu"
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not has_mps:
            raise ValueError("device mps needs a Mac with Apple silicon, and torch found none: use device cpu")
        if processes > 1:
            raise ValueError(f"device mps is for one process, got {processes}: use device cpu")
        return torch.device("mps")
    if not found:
        raise ValueError(f"device {name} needs a CUDA or ROCm device, and torch found none: use device cpu")
    if name != "cuda" and processes > 1:
        raise ValueError(f"device {name} is one GPU, and there are {processes} processes: use device cuda")
    number = process if name == "cuda" else int(name.removeprefix("cuda:"))
    if number >= found:
        if processes > 1:
            raise ValueError(
                f"process {process} of this machine has no GPU: start one process per GPU with "
                f"torchrun --nproc-per-node {found}"
            )
        raise ValueError(f"device {name} is not there: torch found {found} GPUs, numbered from 0")
    return torch.device("cuda", number)


def describe_device(device: torch.device) -> str:
    """Describes a device in a few words."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu, {plural(torch.get_num_threads(), 'thread')}" if device.type == "cpu" else str(device)
