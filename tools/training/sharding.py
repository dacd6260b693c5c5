"""Sharded training with torch's fully_shard (FSDP), for models that are too large for one device.

Each process keeps a slice of every parameter, gradient and optimizer state. The parameters of a block are gathered just
before it runs and resharded after. Checkpoints contain full tensors, so that a run can continue with another number of
processes, or without sharding. On networks that are not sharded, the functions of this module have no effect.
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
    """Shards the parameters of a network over the processes, block by block; the remaining ones are one group.

    Args:
        network: the network on its device, with equal weights on every process; it is modified in place. The optimizer
            must be created afterwards.
        processes: the processes of the training.
    """
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    for block in _blocks(network):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def _blocks(network: nn.Module) -> list[nn.Module]:
    """Returns the repeated modules of a network, such as blocks and stages, innermost first."""
    found: list[nn.Module] = []
    for container in network.modules():
        if not isinstance(container, (nn.Sequential, nn.ModuleList)):
            continue
        children = list(container)
        # single layers are too small to be sharded on their own
        found += [
            child
            for child in children
            if sum(type(other) is type(child) for other in children) > 1
            and any(True for _ in child.children())
            and any(True for _ in child.parameters())
            # a list is not called, so its parameters would not be gathered
            and not isinstance(child, (nn.ModuleList, nn.ModuleDict))
        ]
    return list(dict.fromkeys(reversed(found)))


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Gathers all parameters on every process within the context, for evaluation without communication."""
    parts = [module for module in network.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            # the root module is needed at once when the backward pass begins
            part.set_reshard_after_forward(part is not network, recurse=False)


def whole(state: Any, keep: bool = True) -> Any:
    """Gathers the slices of a state into full tensors; a collective operation.

    Args:
        state: dictionaries and lists of tensors, numbers and text.
        keep: whether this process needs the result; otherwise the tensors are empty.
    """
    if isinstance(state, DTensor):
        # one at a time, on the CPU: together they may not fit on the device
        tensor: Tensor = state.full_tensor().detach()
        return tensor.cpu() if keep else torch.empty(0)
    if isinstance(state, Mapping):
        return {key: whole(value, keep) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(whole(value, keep) for value in state)
    return state


def load_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Loads full weights into a network, sharded or not."""
    own = network.state_dict()
    network.load_state_dict({name: _spread_like(own.get(name), tensor) for name, tensor in weights.items()})


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Loads a full state into an optimizer, of sharded parameters or not."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    spread = {
        # entries without the shape of the parameter, such as a step count, are the same on all processes
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
    # every process has the full tensor and takes its slice
    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)
