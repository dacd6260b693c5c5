"""Weights spread over all processes, for models that are too large for one: torch's fully_shard (FSDP).

Each process keeps a slice of every parameter, of its gradient and of the optimizer's state. A block of the network is
put together just before it computes, and taken apart after. In a checkpoint tensors are whole, so that a run can
continue on another number of processes, and with whole copies too. Without sharding the functions here change nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from .processes import Processes


def shard(network: nn.Module, processes: Processes) -> None:
    """Spreads the parameters of a network over the processes, block by block and what is left together.

    Args:
        network: the same on every process, on its device; changed in place. Optimizers are made after this.
        processes: that share it.
    """
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for block in _blocks(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """What a network repeats, the innermost first: children of one class in one list, such as blocks and stages."""
    found: list[nn.Module] = []
    for container in network.modules():
        if not isinstance(container, (nn.Sequential, nn.ModuleList)):
            continue
        children = list(container)
        # a single layer is not worth a conversation
        found += [
            child
            for child in children
            if sum(type(other) is type(child) for other in children) > 1
            and any(True for _ in child.children())
            and any(True for _ in child.parameters())
            # a list is not called, so nothing would put its weights together
            and not isinstance(child, (nn.ModuleList, nn.ModuleDict))
        ]
    return list(dict.fromkeys(reversed(found)))


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """The weights are whole on every process meanwhile: in evaluation one computes without the others."""
    parts = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # the outermost is needed again at once when the backward pass begins
            part.set_reshard_after_forward(part is not network, recurse=False)


def whole(state: Any, keep: bool = True) -> Any:
    """A state with its slices put together; a conversation of all processes.

    Args:
        state: dictionaries and lists of tensors, numbers and text.
        keep: whether this process wants them; tensors are empty otherwise.
    """
    if isinstance(state, DTensor):
        # one after the other, on the CPU: all of them may be more than a device holds
        tensor: Tensor = state.full_tensor().detach()
        return tensor.cpu() if keep else torch.empty(0)
    if isinstance(state, Mapping):
        return {key: whole(value, keep) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value, keep) for value in state)
    return state


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Gives a network, sharded or not, weights that are whole."""
    own = network.state_dict()
    network.load_state_dict({name: _spread_like(own.get(name), tensor) for name, tensor in weights.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Gives an optimizer, of sharded parameters or not, a state that is whole."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread = {
        # what is not as large as its parameter, such as a count, is the same everywhere
        index: {
            key: _spread_like(parameters[index], value) if _fits(parameters[index], value) else value
            for key, value in entries.items()
        }
        for index, entries in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": spread})


def _fits(parameter: Tensor, value: Any) -> bool:
    return isinstance(value, Tensor) and value.shape == parameter.shape and value.dim() > 0


def _spread_like(own: Tensor | None, tensor: Tensor) -> Tensor:
    if not isinstance(own, DTensor):
        return tensor
    # each takes its slice of what all have
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
