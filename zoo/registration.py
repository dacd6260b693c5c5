"""From a family's table of variants to models that timm creates by name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict
from urllib.parse import urlparse

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import PretrainedCfg, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models._hub import download_cached_file
from torch import nn


class Published(TypedDict, total=False):
    """What the authors of a model published about it, of what they gave; never measured by this project.

    Attributes:
        top1: accuracy on the ImageNet-1k validation set, in percent.
        params_m: parameters, in millions.
        gflops: multiply-adds of one forward pass at the published input size, in 10^9.
        source: where the figures stand.
    """

    top1: float
    params_m: float
    gflops: float
    source: str


def figures(top1: float, params_m: float, gflops: float, source: str) -> Published:
    """Published figures, all of them."""
    return Published(top1=top1, params_m=params_m, gflops=gflops, source=source)


@dataclass(frozen=True)
class Variant:
    """One row of a family's table.

    Attributes:
        summary: a line that says what is special about it.
        arguments: of the family's class.
        cfg: timm's pretrained configuration: weights, preprocessing, names of the first and last layer.
        tag: names the weights, as in `nat_tiny.in1k`.
        published: the authors' figures.
    """

    summary: str
    arguments: Mapping[str, Any]
    cfg: Mapping[str, Any]
    tag: str = "in1k"
    published: Published = field(default_factory=Published)


def imagenet_cfg(url: str = "", **kwargs: Any) -> dict[str, Any]:
    """What timm needs to know of a pretrained model, with the preprocessing that most are published with.

    Args:
        url: of the weights; empty where there are none.
        kwargs: fields of timm's `PretrainedCfg` that are others or more.
    """
    return {
        "url": url,
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "classifier": "head.fc",
        **kwargs,
    }


def pico(cfg: Callable[..., dict[str, Any]], **arguments: Any) -> Variant:
    """The member of a family that is ours: small enough for every test and for a demo, without weights.

    Args:
        cfg: makes the family's configuration, of its authors' fields unless told otherwise.
        arguments: of the family's class.
    """
    summary = (
        "Ours, not the paper's: at most 2 M parameters, for demos, tests and small data. No weights are published."
    )
    return Variant(summary, arguments, cfg(license=None, origin_url=None, paper_ids=None), tag="untrained")


# the keys under which authors wrap their weights
WRAPPERS = ("state_dict", "model")


def unwrapped(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The weights of a checkpoint, which may be bare or wrapped."""
    for key in WRAPPERS:
        checkpoint = checkpoint.get(key, checkpoint)
    return checkpoint


class Filter(Protocol):
    """What timm calls `checkpoint_filter_fn`."""

    def __call__(self, state_dict: dict[str, Any], model: nn.Module) -> dict[str, Any]:
        """A checkpoint of the authors or of this project -> the same by the names and shapes of the model."""


_published: dict[str, Published] = {}
_filters: dict[str, Filter] = {}


def register_variants(
    module: str, network: type[nn.Module], checkpoint_filter_fn: Filter, variants: Mapping[str, Variant]
) -> None:
    """Makes every variant of a family a function of its module and a model of timm's.

    Args:
        module: the family's `__name__`.
        network: the family's class.
        checkpoint_filter_fn: maps an official state dict to the class's names.
        variants: by name; a name of timm's own must not be among them.
    """
    family: Any = sys.modules[module]
    # another table of the same family may have come before this one
    family.default_cfgs = {
        **getattr(family, "default_cfgs", {}),
        **generate_default_cfgs({f"{name}.{variant.tag}": dict(variant.cfg) for name, variant in variants.items()}),
    }
    for name, variant in variants.items():
        setattr(family, name, register_model(_entrypoint(module, name, variant, network, checkpoint_filter_fn)))
        _published[name] = variant.published
        _filters[name] = checkpoint_filter_fn


def _entrypoint(module: str, name: str, variant: Variant, network: type[nn.Module], filter_fn: Filter) -> Any:
    def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
        if pretrained:
            kwargs = _with_named_file(f"{name}.{variant.tag}", variant, kwargs)
        arguments = {**variant.arguments, **kwargs}
        return build_model_with_cfg(
            network,
            name,
            pretrained,
            pretrained_filter_fn=filter_fn,
            feature_cfg={"out_indices": tuple(range(len(arguments["depths"]))), "feature_cls": "getter"},
            **arguments,
        )

    create.__name__ = create.__qualname__ = name
    create.__module__ = module
    create.__doc__ = variant.summary
    return create


def _with_named_file(name: str, variant: Variant, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `build_model_with_cfg` that name a downloaded file, where the address names none.

    timm keeps a file under the last part of its address; of a link to a file-sharing service that is the same word for
    every file, or nothing. Those are kept under the model's name.

    Raises:
        RuntimeError: weights are published, but their address is not known.
    """
    overlay = kwargs.get("pretrained_cfg_overlay") or {}
    url = variant.cfg["url"]
    if isinstance(kwargs.get("pretrained_cfg"), (dict, PretrainedCfg)) or overlay.keys() & _SOURCES:
        return kwargs
    if not url and variant.tag != "untrained":
        raise RuntimeError(
            f"the address of the weights of {name} is not known: download them from {variant.cfg['origin_url']} and "
            "pass pretrained_cfg_overlay={'file': path}"
        )
    if not url or "." in urlparse(url).path.rpartition("/")[2]:
        return kwargs
    path = download_cached_file((url, f"{name}.pth"), cache_dir=kwargs.get("cache_dir"))
    return {**kwargs, "pretrained_cfg_overlay": {**overlay, "file": path}}


# fields of a configuration that say where weights are
_SOURCES = {"file", "url", "state_dict", "hf_hub_id"}


def published(name: str) -> Published:
    """The published figures of a model.

    Args:
        name: a registered model, with or without its tag.

    Returns:
        The figures; empty where nothing was published.
    """
    return _published.get(name.partition(".")[0], Published())


def checkpoint_filter(name: str) -> Filter:
    """What maps an official state dict, and the model it is for, to the names of the model.

    Args:
        name: a model registered here, with or without its tag.
    """
    return _filters[name.partition(".")[0]]
