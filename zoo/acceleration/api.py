"""`accelerate`: a live network of another library as ours, with the same weights."""

from __future__ import annotations

import copy
from typing import Any

import timm
import torch
from timm.models._features import FeatureGetterNet, FeatureListNet
from torch import nn

from attnzoo.blocks import fuse as fuse_layers

from ..base import Pyramid
from .checks import check_tensors
from .huggingface import HF_DINAT, HF_NAT, HF_SWIFTFORMER, HF_SWIN
from .live import Live
from .proof import copied, difference, enliven, image
from .recipe import Recipe
from .state import copy_place, copy_rates, copy_training_state, load, origins
from .timm_convolutions import HALONET, MAMBAOUT, SHVIT, SWIFTFORMER
from .timm_windows import DAVIT, SWIN, TWINS

RECIPES = (SWIN, TWINS, DAVIT, SWIFTFORMER, MAMBAOUT, SHVIT, HALONET, HF_SWIN, HF_SWIFTFORMER, HF_DINAT, HF_NAT)
# of the difference in float64, where rounding is far smaller
TOLERANCE = 1e-6


def accelerate(model: nn.Module, *, fuse: bool = False) -> nn.Module:
    """Returns a network of this project that computes what a network of another library does, with the same weights.

    It knows timm's Swin, Twins, DaViT, SwiftFormer, MambaOut, SHViT and HaloNet, of any width, depth, number of
    classes, pooling and image size, and the wrappers that timm makes for `features_only=True`. Of transformers it knows
    Swin, SwiftFormer, NAT and DiNAT with and without the classifier. The result has the interface of timm's networks,
    features in the layout of the original, and its own parameter names. It takes images of any size. In place of
    transformers' objects it returns their `logits`, or else their `pooler_output` or `last_hidden_state`.

    Training state is kept: rates of dropout and stochastic depth, `requires_grad`, training or evaluation mode of
    modules, device, dtype, gradient checkpointing. Hooks are not taken over. The model that is passed stays as it is,
    and so do torch's random numbers.

    The outputs are compared before it returns, on copies of both networks on the CPU: in float64, with random numbers
    in place of constants that hide layers, such as a layer scale of zero, and with the weights themselves in float32.

    Args:
        model: the network, without wrappers for compilation or parallel training.
        fuse: whether norms and parallel branches are folded into other layers, for inference; the result is in
            evaluation mode.

    Returns:
        The network. Its attribute `largest_difference` is the largest difference from the outputs of `model`, divided
        by their largest value, in float32, or in float64 if that is the dtype of the model.

    Raises:
        TypeError: `model` is not a network of torch.
        ValueError: the network is not known, or has an argument that ours has not; the message names what is known, or
            the argument.

    Example:
        >>> import attnzoo, timm
        >>> model = attnzoo.accelerate(timm.create_model("swin_tiny_patch4_window7_224"))
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
        live = Live(model)
        recipe = _recipe(live)
        recipe.check_layers(live)
        check_tensors(live)
        with torch.device("meta"):
            network = recipe.build(live)
            result = _wrapped(live, network)
        # a wrapper may leave out layers
        network.to_empty(device="cpu")
        made_from = origins(live, recipe, network)
        layers = copy_rates(live, recipe, network)
        copy_training_state(live, network, made_from, layers)
        modes = {module: module.training for module in network.modules()}
        network.eval()
        result.eval()
        _prove(live, recipe, network, result)
        dtype = torch.float64 if torch.float64 in {x.dtype for x in live.tensors().values()} else torch.float32
        network.to(dtype)
        load(live, recipe, network)
        if fuse:
            fuse_layers(result)
        images = image(network.in_chans, recipe.size(live), dtype)
        result.largest_difference = difference(copied(model, dtype), result, images)
        _set_config(live, recipe, result)
        if fuse:
            first = next(x for x in model.parameters())
            if not any(x.requires_grad for x in model.parameters()):
                result.requires_grad_(False)
            return result.to(first.device, first.dtype)
        copy_place(live, network, made_from)
        result.train(live.model.training)
        for module, mode in modes.items():
            module.training = mode
        return result


def _recipe(live: Live) -> Recipe:
    for recipe in RECIPES:
        if recipe.knows(live):
            return recipe
    known = ", ".join(recipe.title for recipe in RECIPES)
    kind = type(live.network)
    inner = next((name for name in ("module", "_orig_mod") if hasattr(live.model, name)), None)
    hint = f"; pass model.{inner}, the network inside" if inner else ""
    raise ValueError(f"accelerate does not know {kind.__module__}.{kind.__qualname__}, only {known}{hint}")


def _wrapped(live: Live, network: Pyramid) -> Any:
    """Returns the network in the wrapper for features, if the live one is in one."""
    if live.features is None:
        return network
    count = len(live.features.info)
    indices = tuple(index % count for index in live.features.out_indices)
    if str(network.feature_info[0]["module"]).startswith("stem"):
        return FeatureListNet(network, indices, flatten_sequential=True)
    network.feature_info = [
        {"num_chs": info["num_chs"], "reduction": info["reduction"], "module": f"stages.{i}"}
        for i, info in enumerate(live.features.info)
    ]
    wrapper: Any = live.model
    has_norm = bool(getattr(wrapper, "norm", False))
    return FeatureGetterNet(network, indices, output_fmt=wrapper.output_fmt.value, norm=has_norm, prune=False)


def _prove(live: Live, recipe: Recipe, network: Pyramid, result: nn.Module) -> None:
    """Compares the networks in float64, with random numbers in place of constants.

    Raises:
        ValueError: the outputs differ.
    """
    theirs = copied(live.model, torch.float64)
    enliven(theirs)
    network.to(torch.float64)
    load(Live(theirs), recipe, network)
    error = difference(theirs, result, image(network.in_chans, recipe.size(live), torch.float64))
    if not error < TOLERANCE:
        raise ValueError(
            f"accelerate cannot express this {recipe.title}: its outputs differ from those of {type(network).__name__} "
            f"by {error:.1e} of the largest"
        )


def _set_config(live: Live, recipe: Recipe, result: Any) -> None:
    """Gives the result the preprocessing of the live network, with the names of our layers."""
    config = getattr(live.model, "pretrained_cfg", None)
    if not isinstance(config, dict):
        return
    names = {"first_conv": recipe.family.first_conv, "classifier": recipe.family.cfg.get("classifier", "head.fc")}
    result.pretrained_cfg = {**copy.deepcopy(config), **{name: names[name] for name in names if name in config}}
    architecture = f"zoo_{config.get('architecture', '')}"
    if timm.is_model(architecture):
        result.pretrained_cfg["architecture"] = architecture
    result.default_cfg = result.pretrained_cfg
