"""A live network of another library, under the names of its class, whatever wrapper of timm's it is in."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from timm.models._features import FeatureDictNet, FeatureGetterNet, FeatureHookNet, FeatureInfo
from torch import Tensor, nn

# containers whose members timm's wrappers for features rename from `stages.0` to `stages_0`
_CONTAINERS = ("layers", "patch_embed", "stages", "stem")


class Live:
    """Modules and tensors of a network by name, as views.

    Attributes:
        model: what the caller passed.
        network: the network in a wrapper for features; the wrapper itself if it took the network apart.
        features: what the wrapper returns; None without a wrapper.
        modules: modules by their name in the network's class.

    Args:
        model: a network, or one in a wrapper that timm makes for `features_only=True`.

    Raises:
        ValueError: the wrapper returns a dictionary.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.network: Any = model
        self.features: FeatureInfo | None = None
        self._rename: Callable[[str], str] = _same
        if isinstance(model, (FeatureDictNet, FeatureGetterNet, FeatureHookNet)):
            if getattr(model, "return_dict", False) or type(model) is FeatureDictNet:
                raise ValueError("accelerate does not know features as a dictionary: make a model that returns a list")
            self.features = model.feature_info
            for prefix in ("model", "body"):
                if prefix in model:
                    self.network, self._rename = model[prefix], partial(_without, f"{prefix}.")
            if self.network is model:
                self._rename = _rejoined
        else:
            prefix = str(getattr(model, "base_model_prefix", ""))
            # transformers' networks with a classifier
            if prefix and hasattr(model, prefix):
                self._rename = partial(_without, f"{prefix}.")
        self.modules: dict[str, Any] = {self._rename(name): module for name, module in model.named_modules() if name}

    @property
    def is_taken_apart(self) -> bool:
        """Whether a wrapper holds the parts of the network instead of the network."""
        return self.features is not None and self.network is self.model

    def __getitem__(self, name: str) -> Any:
        return self.modules[name]

    def __contains__(self, name: str) -> bool:
        return name in self.modules

    def sequence(self, name: str) -> list[Any]:
        """Returns the members of a container, such as the stages."""
        found: list[Any] = []
        while f"{name}.{len(found)}" in self.modules:
            found.append(self.modules[f"{name}.{len(found)}"])
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Returns parameters and buffers, themselves, by their name in the network's class."""
        return {self._rename(name): tensor for name, tensor in self.model.state_dict(keep_vars=True).items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the values of parameters and buffers by their name in the network's class."""
        return {name: tensor.detach() for name, tensor in self.tensors().items()}


def _same(name: str) -> str:
    return name


def _without(prefix: str, name: str) -> str:
    return name.removeprefix(prefix)


def _rejoined(name: str) -> str:
    """Maps `stages_0.blocks` to `stages.0.blocks`."""
    for container in _CONTAINERS:
        if name.startswith(f"{container}_"):
            return f"{container}.{name.removeprefix(f'{container}_')}"
    return name
