"""What `accelerate` knows about a family of another library, and the checks that all families share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from timm.layers import ClassifierHead, DropPath, LayerNorm, LayerNorm2d, Mlp, NormMlpClassifierHead
from timm.layers.activations import GELU
from torch import nn

from ..base import Family, Pyramid
from .checks import check_methods
from .live import Live

# layers that compute the same in every family
_COMMON: tuple[type[nn.Module], ...] = (
    nn.Sequential,
    nn.ModuleList,
    nn.Identity,
    nn.Flatten,
    nn.Linear,
    nn.Conv2d,
    nn.Dropout,
    DropPath,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
)
# modules whose layers are all the same for us; the activation of transformers is checked by its configuration
_MODULES = ("timm.layers.adaptive_avgmax_pool", "transformers.activations")
LAYER_NORMS = (nn.LayerNorm, LayerNorm, LayerNorm2d)
GELUS = (nn.GELU, GELU)
TRANSFORMER = (*LAYER_NORMS, *GELUS, nn.Softmax, Mlp, ClassifierHead, NormMlpClassifierHead)

# arguments that choose the type of a layer, by the last part of its name
_ARGUMENTS = {"attn": "attn_layer", "attn_last": "attn_layer", "head": "head_fn", "ls": "ls_init_value"}
_ARGUMENTS_BY_PART = (("drop", "drop_block_rate"), ("norm", "norm_layer"), ("bn", "norm_layer"), ("act", "act_layer"))


@dataclass(frozen=True)
class Recipe:
    """How the networks of a class of another library are made here.

    Attributes:
        title: name of the family for messages, such as "Swin".
        module: name of the library's module with the class and its layers.
        classes: names of the classes of whole networks.
        member: type of a layer that all of the networks have, by name; for wrappers that took a network apart.
        layers: types of layers from other modules that the networks consist of.
        family: the family here.
        build: makes our network, without weights, for a live one. It raises ValueError for what it cannot express.
        drop: our names for a dropout or stochastic depth layer, from its name there.
        size: rows and columns of images that the network takes.
        network: our class, if it is not the family's.
    """

    title: str
    module: str
    classes: tuple[str, ...]
    member: str
    layers: tuple[type[nn.Module], ...]
    family: Family
    build: Callable[[Live], Pyramid]
    drop: Callable[[str], tuple[str, ...]]
    size: Callable[[Live], tuple[int, int]] = field(default=lambda live: (64, 96))

    def knows(self, live: Live) -> bool:
        """Whether a network is one of these."""
        kind = type(live.network)
        is_whole = kind.__module__ == self.module and kind.__name__ in self.classes
        if not is_whole and not live.is_taken_apart:
            return False
        return any(full_name(type(module)) == self.member for module in live.modules.values())

    def check_layers(self, live: Live) -> None:
        """Refuses networks with layers of other types than ours compute.

        Raises:
            ValueError: a layer has another type, or a method of its own.
        """
        for module in (live.model, live.network):
            check_methods("", module)
        for name, module in live.modules.items():
            check_methods(name, module)
            kind = type(module)
            if kind.__module__ not in (self.module, *_MODULES) and kind not in (*_COMMON, *self.layers):
                self.refuse(_argument(name), f"{name} is a {kind.__name__}")
            if kind is nn.GELU and module.approximate != "none":
                self.refuse("act_layer", f"{name} approximates GELU")
            if kind is nn.Conv2d and module.padding_mode != "zeros":
                self.refuse("padding_mode", f"{name} pads with {module.padding_mode}")

    def refuse(self, argument: str, detail: str) -> None:
        """Raises the error for an argument that our network does not have."""
        raise ValueError(f"accelerate cannot express `{argument}` of {self.title}: {detail}")


def full_name(kind: type) -> str:
    """Returns the name of a type with its module."""
    return f"{kind.__module__}.{kind.__qualname__}"


def only(values: Sequence[Any], argument: str) -> Any:
    """Returns the value that all layers have.

    Raises:
        ValueError: they differ.
    """
    if any(value != values[0] for value in values):
        raise ValueError(f"accelerate cannot express different values of `{argument}`: {sorted(set(values))}")
    return values[0]


def need(condition: bool, argument: str, detail: str) -> None:
    """Raises ValueError for an argument that our network does not have, unless a condition holds."""
    if not condition:
        raise ValueError(f"accelerate cannot express `{argument}`: {detail}")


def ratio(hidden: Sequence[int], dims: Sequence[int], argument: str) -> float:
    """Returns a number r with int(r * dim) hidden channels for all widths.

    Raises:
        ValueError: there is none.
    """
    low = max(n / dim for n, dim in zip(hidden, dims, strict=True))
    high = min((n + 1) / dim for n, dim in zip(hidden, dims, strict=True))
    need(low < high, argument, f"{list(hidden)} hidden channels for {list(dims)} channels")
    return (low + high) / 2


def classes_of(fc: Any) -> int:
    """Returns the number of classes of a classifier, a linear layer or a 1x1 convolution; 0 for an `nn.Identity`."""
    if isinstance(fc, nn.Identity):
        return 0
    classes: int = fc.weight.shape[0]
    return classes


def head_arguments(live: Live) -> dict[str, Any]:
    """Returns our arguments for a classifier of timm with `fc` and `global_pool`; none if a wrapper removed it."""
    if "head" not in live:
        return {"num_classes": 0, "global_pool": ""}
    return {"num_classes": classes_of(live["head.fc"]), "global_pool": live["head"].global_pool.pool_type}


def without_norm(live: Live, ours: Pyramid, name: str = "norm") -> None:
    """Removes our last norm if the network has none, as in a wrapper for features."""
    if isinstance(live.modules.get(name, nn.Identity()), nn.Identity):
        ours.norm = nn.Identity()


def _argument(name: str) -> str:
    leaf = name.rpartition(".")[2]
    return _ARGUMENTS.get(leaf) or next((argument for part, argument in _ARGUMENTS_BY_PART if part in leaf), leaf)
