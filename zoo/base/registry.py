"""Registration of a family's table of variants as models that timm creates by name."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    get_pretrained_cfg,
    register_model,
)
from torch import nn

from .checkpoints import Filter
from .pretrained import checker, with_file

_logger = logging.getLogger(__name__)

# top-1 accuracy in percent, parameters in millions, multiply-adds in 10^9
Figures = tuple[float | None, float | None, float | None]
# licenses that also bind what is made with the weights, by their first letters
_RECIPROCAL = ("agpl-", "gpl-")
# tag of variants without published weights
UNTRAINED = "untrained"


class Published(TypedDict, total=False):
    """Figures that the authors of a model published; never measured by this project.

    Attributes:
        top1: accuracy on the ImageNet-1k validation set, in percent.
        params_m: parameters, in millions.
        gflops: multiply-adds of one forward pass at the published input size, in 10^9.
        source: URL of the figures.
    """

    top1: float
    params_m: float
    gflops: float
    source: str


@dataclass(frozen=True)
class Variant:
    """One row of a family's table.

    Attributes:
        summary: one line that describes the variant.
        arguments: arguments of the family's class.
        cfg: timm's pretrained configuration: weights, preprocessing, names of the first and last layer.
        tag: tag of the weights, as in `nat_tiny.in1k`.
        published: the authors' figures.
    """

    summary: str
    arguments: Mapping[str, Any]
    cfg: Mapping[str, Any]
    tag: str = "in1k"
    published: Published = field(default_factory=Published)


@dataclass(frozen=True)
class Family:
    """The common properties of a family's models, and the constructor of rows of its table.

    Attributes:
        module: the family's `__name__`.
        network: the family's class.
        checkpoint_filter_fn: converts an official state dict to the class's parameter names.
        code: URL of the authors' repository.
        paper: arXiv identifier.
        license: license of the weights.
        first_conv: name of the first layer.
        source: URL of the authors' figures, or a suffix of `code`.
        cfg: further fields of timm's `PretrainedCfg`, common to most variants.
    """

    module: str
    network: type[nn.Module]
    checkpoint_filter_fn: Filter
    code: str
    paper: str
    license: str
    first_conv: str
    source: str = ""
    cfg: Mapping[str, Any] = field(default_factory=dict)

    def variant(
        self,
        summary: str,
        url: str = "",
        published: Figures | None = None,
        *,
        source: str | None = None,
        tag: str | None = None,
        timm: str = "",
        hub: str = "",
        cfg: Mapping[str, Any] | None = None,
        **arguments: Any,
    ) -> Variant:
        """Returns a row of the table.

        Args:
            summary: one line that describes the variant.
            url: the authors' URL of the weights; empty if there are none or if their page does not give it.
            published: top-1 accuracy in percent, parameters in millions and multiply-adds in 10^9; None for figures
                that the authors do not give.
            source: source of the figures; None for the family's.
            tag: tag of the weights; by default `in1k`, or `untrained` without a URL or repository.
            timm: timm's name, with tag, of the network with these weights, whose repository is the first source.
            hub: the authors' repository on the Hugging Face Hub, `owner/name` or `owner/name/file`; a source before
                the URL.
            cfg: fields of timm's `PretrainedCfg` that differ.
            arguments: arguments of the family's class.
        """
        given = zip(("top1", "params_m", "gflops"), published or (), strict=False)
        figures: Published = {name: value for name, value in given if value is not None}  # type: ignore[assignment]
        if figures:
            source = self.source if source is None else source
            figures["source"] = source if source.startswith("https:") else self.code + source
        repository = _repository(timm, hub)
        tag = tag or ("in1k" if url or repository else UNTRAINED)
        return Variant(summary, arguments, self._cfg(url, **repository, **(cfg or {})), tag, figures)

    def pico(self, *, cfg: Mapping[str, Any] | None = None, **arguments: Any) -> Variant:
        """Returns a small variant that is not from the paper, for tests and demos, without weights.

        Args:
            cfg: fields of timm's `PretrainedCfg` that differ.
            arguments: arguments of the family's class.
        """
        summary = (
            "Not from the paper: at most 2 M parameters, for demos, tests and small data. No weights are published."
        )
        ours = self._cfg("", license=None, origin_url=None, paper_ids=None, **(cfg or {}))
        return Variant(summary, arguments, ours, tag=UNTRAINED)

    def _cfg(self, url: str, **cfg: Any) -> dict[str, Any]:
        """Returns timm's configuration, with the preprocessing of most published models as default."""
        return {
            "url": url,
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bicubic",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": self.first_conv,
            "classifier": "head.fc",
            "license": self.license,
            "origin_url": self.code,
            "paper_ids": f"arXiv:{self.paper}",
            **self.cfg,
            **cfg,
        }

    def register(self, variants: Mapping[str, Variant]) -> None:
        """Registers every variant with timm and adds its entry point to the family's module.

        Args:
            variants: variants by name; the names must not exist in timm.
        """
        module: Any = sys.modules[self.module]
        module.default_cfgs = generate_default_cfgs(
            {f"{name}.{variant.tag}": dict(variant.cfg) for name, variant in variants.items()}
        )
        for name, variant in variants.items():
            setattr(module, name, register_model(self._entrypoint(name, variant)))
            _published[name] = variant.published
            _filters[name] = self.checkpoint_filter_fn

    def _entrypoint(self, name: str, variant: Variant) -> Any:
        # timm's networks take them; most networks here take images of any size without being told
        parameters = inspect.signature(self.network.__init__).parameters
        ignored = {"img_size", "dynamic_img_size"} - parameters.keys()

        def create(pretrained: bool = False, **kwargs: Any) -> nn.Module:
            if kwargs.get("features_only") and not hasattr(self.network, "forward_intermediates"):
                raise ValueError(f"{name} has no feature maps: create it without features_only")
            if "output_stride" not in parameters:
                stride = kwargs.pop("output_stride", 32)
                if stride != 32:
                    raise ValueError(f"{name} has no dilated stages: output_stride must be 32, got {stride}")
            kwargs = {key: value for key, value in kwargs.items() if key not in ignored}
            if kwargs.get("features_only"):
                kwargs = {**getattr(self.network, "dense_arguments", {}), **kwargs}
            if pretrained and variant.tag != UNTRAINED:
                kwargs = with_file(f"{name}.{variant.tag}", checker(self.checkpoint_filter_fn, create), kwargs)
            model = build_model_with_cfg(
                self.network,
                name,
                pretrained,
                pretrained_filter_fn=self.checkpoint_filter_fn,
                # the features of all stages
                feature_cfg={"out_indices": None, "feature_cls": "getter"},
                **{**variant.arguments, **kwargs},
            )
            # a file that was trained here brings a configuration of its own
            is_theirs = pretrained and not isinstance(kwargs.get("pretrained_cfg"), (dict, PretrainedCfg))
            if is_theirs and variant.tag != UNTRAINED and self.license.startswith(_RECIPROCAL):
                _logger.warning(
                    "%s: the license of the published weights is %s, see %s", name, self.license.upper(), self.code
                )
            return model

        create.__name__ = create.__qualname__ = name
        create.__module__ = self.module
        create.__doc__ = variant.summary
        return create


_published: dict[str, Published] = {}
_filters: dict[str, Filter] = {}


def published(name: str) -> Published:
    """Returns the published figures of a model.

    Args:
        name: name of a registered model, with or without its tag.

    Returns:
        The figures; empty if nothing was published.
    """
    return _published.get(name.partition(".")[0], Published())


def checkpoint_filter(name: str) -> Filter:
    """Returns the function that converts an official state dict to the parameter names of a model.

    Args:
        name: name of a model registered here, with or without its tag.
    """
    return _filters[name.partition(".")[0]]


def _repository(timm: str, hub: str) -> dict[str, str]:
    """Returns the fields of a configuration that name a repository on the Hugging Face Hub."""
    if timm:
        try:
            config = get_pretrained_cfg(timm)
        except RuntimeError:
            # a release of timm that has other weights of the network
            return {}
        hub = config.hf_hub_id or ""
    owner, _, rest = hub.partition("/")
    name, _, file = rest.partition("/")
    return {"hf_hub_id": f"{owner}/{name}", **({"hf_hub_filename": file} if file else {})} if hub else {}
