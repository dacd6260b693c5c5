"""What no network may have whose weights are moved to ours: tensors that are not independent, finite parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .live import Live

# tensors of a layer that a hook may compute
_COMPUTED = ("weight", "bias")


def check_methods(name: str, module: nn.Module) -> None:
    """Checks that a module computes what its class does.

    Raises:
        ValueError: one of its methods has been replaced, such as `forward`.
    """
    own = vars(module)
    replaced = next((key for key in own if callable(own[key]) and callable(getattr(type(module), key, None))), None)
    if replaced is not None:
        where = name or "the network"
        raise ValueError(
            f"accelerate cannot express a replaced method: `{replaced}` of {where} is not that of its class"
        )


def check_tensors(live: Live) -> None:
    """Checks that every layer has its own weights, that they are finite, and that they are on one device.

    Raises:
        ValueError: they are not; the message names the layer.
    """
    tensors = live.tensors()
    devices = {tensor.device for tensor in tensors.values()}
    if len(devices) > 1 or any(device.type == "meta" for device in devices):
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"accelerate needs a network with its weights on one device, got {names}")
    for name, module in live.modules.items():
        for leaf in _COMPUTED:
            if isinstance(vars(module).get(leaf), Tensor):
                raise ValueError(
                    f"accelerate cannot express a computed weight: {name}.{leaf} is not a parameter; make it one, such "
                    "as with torch.nn.utils.prune.remove or torch.nn.utils.remove_weight_norm"
                )
    names_of: dict[int, str] = {}
    for name, tensor in tensors.items():
        other = names_of.setdefault(id(tensor), name)
        if other != name:
            raise ValueError(f"accelerate cannot express a shared parameter: {other} and {name} are one tensor")
        if not torch.isfinite(tensor).all():
            raise ValueError(f"accelerate cannot check this network: {name} has values that are not finite")
