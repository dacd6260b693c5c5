"""Weights and training state of a live network, moved to ours by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..base import Pyramid
from .live import Live
from .recipe import Recipe


def load(live: Live, recipe: Recipe, ours: Pyramid) -> None:
    """Copies parameters and buffers into our network.

    Raises:
        ValueError: names or shapes differ.
    """
    found = recipe.family.checkpoint_filter_fn(live.state_dict(), ours)
    wanted = ours.state_dict()
    strange = sorted(found.keys() ^ wanted.keys())
    strange += [name for name in found.keys() & wanted.keys() if found[name].shape != wanted[name].shape]
    if strange:
        raise ValueError(
            f"accelerate cannot express this {recipe.title}: {len(strange)} tensors differ from those of "
            f"{type(ours).__name__}, the first one is {strange[0]}"
        )
    ours.load_state_dict(found)


def origins(live: Live, recipe: Recipe, ours: Pyramid) -> dict[str, list[str]]:
    """Returns the names in the live network of what each tensor of ours was made from."""
    names = list(live.tensors())
    # tensors of the same shapes, filled with their number
    numbered = {
        name: torch.tensor(float(number), dtype=torch.float64, device="cpu").expand(tensor.shape)
        for number, (name, tensor) in enumerate(live.tensors().items())
    }
    made = recipe.family.checkpoint_filter_fn(numbered, ours)
    own = ours.state_dict()
    return {name: [names[int(number)] for number in _numbers(tensor)] for name, tensor in made.items() if name in own}


def _numbers(tensor: Tensor) -> list[float]:
    # layers are joined along the first axis
    column = tensor.reshape(len(tensor), -1)[:, 0] if tensor.ndim else tensor
    numbers: list[float] = column.unique().tolist()
    return numbers


def copy_rates(live: Live, recipe: Recipe, ours: Pyramid) -> dict[str, nn.Module]:
    """Copies the rates of dropout and stochastic depth.

    Returns:
        The layers of the live network by our names.

    Raises:
        ValueError: ours has no such layer.
    """
    own: Mapping[str, Any] = dict(ours.named_modules())
    sources: dict[str, nn.Module] = {}
    for name, layer in live.modules.items():
        # transformers has a class for stochastic depth in every family
        is_path = type(layer).__name__.endswith("DropPath")
        if not isinstance(layer, nn.Dropout) and not is_path:
            continue
        rate = layer.drop_prob if is_path else layer.p
        targets = [target for target in recipe.drop(name) if target in own]
        if rate and not targets:
            leaf = name.rpartition(".")[2]
            recipe.refuse(f"{leaf}_rate", f"{name} has a rate of {rate}, and there is no such layer here")
        for target in targets:
            if is_path:
                ours.set_submodule(target, DropPath(rate, getattr(layer, "scale_by_keep", True)))
            elif not isinstance(own[target], nn.Dropout):
                ours.set_submodule(target, nn.Dropout(rate))
            else:
                if target in sources and own[target].p != rate:
                    recipe.refuse("proj_drop_rate", f"{name} has a rate of {rate} beside one of {own[target].p}")
                own[target].p = rate
            sources[target] = layer
    return sources


def copy_training_state(
    live: Live, ours: Pyramid, made_from: Mapping[str, list[str]], layers: Mapping[str, nn.Module]
) -> None:
    """Copies what optimizers and the training mode see: frozen parameters, modes of modules, settings of norms.

    Args:
        live: the live network.
        ours: our network, with its weights.
        made_from: what `origins` returns.
        layers: what `copy_rates` returns.
    """
    tensors = live.tensors()
    owners = {name: live.modules.get(name.rpartition(".")[0], live.network) for name in tensors}
    modes: dict[str, bool] = {}
    for name, sources in made_from.items():
        module_name, _, leaf = name.rpartition(".")
        module: Any = ours.get_submodule(module_name)
        modes[module_name] = modes.get(module_name, False) or any(owners[source].training for source in sources)
        if isinstance(getattr(module, leaf), nn.Parameter):
            getattr(module, leaf).requires_grad_(any(tensors[source].requires_grad for source in sources))
        for setting in ("eps", "momentum"):
            if hasattr(module, setting) and hasattr(owners[sources[0]], setting):
                setattr(module, setting, getattr(owners[sources[0]], setting))
    modes |= {name: layer.training for name, layer in layers.items()}
    for name, module in ours.named_modules():
        # a container is in training if one of its layers is
        inside = [mode for other, mode in modes.items() if other == name or other.startswith(f"{name}.")]
        module.training = any(inside) if inside else live.model.training
    ours.training = live.model.training
    switches = ("grad_checkpointing", "gradient_checkpointing")
    is_checkpointed = any(getattr(module, switch, False) for module in live.model.modules() for switch in switches)
    ours.set_grad_checkpointing(is_checkpointed)
    ours.drop_rate = getattr(live.network, "drop_rate", ours.drop_rate)


def copy_place(live: Live, ours: Pyramid, made_from: Mapping[str, list[str]]) -> None:
    """Moves every tensor to the device and the dtype of what it was made from."""
    tensors = live.tensors()
    for name, sources in made_from.items():
        module_name, _, leaf = name.rpartition(".")
        tensor, source = getattr(ours.get_submodule(module_name), leaf), tensors[sources[0]]
        tensor.data = tensor.data.to(source.device, source.dtype)
