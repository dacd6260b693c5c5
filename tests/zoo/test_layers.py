"""Tools find every layer by its type, and hooks see what every layer computes."""

from __future__ import annotations

from collections import Counter

import pytest
import timm
import torch
from torch import Tensor, nn

from attnzoo.blocks import PositionEmbedding
from attnzoo.blocks.head import DistilledLinear

from ..tiers import quick
from .models import ARGUMENTS, SMALL

# families that take other paths: recomputed, packed, merged, in place, channel-first
PATHS = ["halonet_pico", "mambaout_pico", "overlock_pico", "shvit_pico", "swin_pico", "swiftformer_pico", "van_pico"]
some = pytest.mark.parametrize("name", quick(SMALL, PATHS))


def create(name: str) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=4, **ARGUMENTS.get(name, {})).eval()


def layers(model: nn.Module) -> dict[str, nn.Module]:
    """Returns the layers with a weight that a tool looks up by type."""
    return {name: module for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))}


@pytest.mark.parametrize("name", SMALL)
def test_layers_have_torchs_own_types(name: str) -> None:
    with torch.device("meta"):
        model = create(name)
    assert {type(layer) for layer in layers(model).values()} <= {nn.Linear, nn.Conv2d, DistilledLinear}
    assert all(isinstance(parent, nn.Module) for parent in model.modules())


@some
def test_hooks_see_what_layers_compute(name: str) -> None:
    model, x = create(name), torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = model(x)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        layer.register_forward_hook(lambda _, given, out, key=key: seen.update({key: (given[0].clone(), out.clone())}))
        for key, layer in layers(model).items()
    ]
    with torch.no_grad():
        hooked = model(x)
    for handle in handles:
        handle.remove()
    torch.testing.assert_close(hooked, expected, atol=1e-5, rtol=1e-4)
    assert seen.keys() == layers(model).keys()
    with torch.no_grad():
        for key, (given, out) in seen.items():
            torch.testing.assert_close(out, model.get_submodule(key)(given), msg=key)


@some
def test_hooks_fire_once_in_training(name: str) -> None:
    model, calls = create(name).train(), Counter()
    leaves = {key: module for key, module in model.named_modules() if not list(module.children())}
    for key, module in leaves.items():
        module.register_forward_hook(lambda *_, key=key: calls.update([key]))
    answer = model(torch.randn(2, 3, 64, 64))
    once = Counter(calls)
    sum(part.square().sum() for part in (answer if isinstance(answer, tuple) else (answer,))).backward()
    assert calls == once
    # timm's heads have layers that they do not use
    silent = {key: leaves[key] for key in leaves.keys() - calls.keys() if not key.startswith("head.")}
    assert {key for key, leaf in silent.items() if not _computes_nothing(leaf)} == set()


def _computes_nothing(leaf: nn.Module) -> bool:
    """Whether a layer is a placeholder, an empty list, or one that only exists for a checkpoint and is not trained."""
    weights = list(leaf.parameters())
    is_frozen = len(weights) > 0 and not any(weight.requires_grad for weight in weights)
    return is_frozen or isinstance(leaf, (nn.Identity, nn.ModuleList, PositionEmbedding))


def test_a_global_hook_sees_every_layer() -> None:
    model, seen = create("swin_pico"), set()
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.add(module))
    with torch.no_grad():
        model(torch.randn(1, 3, 64, 64))
    handle.remove()
    assert seen == set(model.modules())


def test_layers_that_were_replaced_are_called() -> None:
    model, x = create("swin_pico"), torch.randn(1, 3, 64, 64)
    nn.utils.parametrizations.weight_norm(model.stages[0].blocks[0].attn.qkv)
    small = torch.ao.quantization.quantize_dynamic(create("swin_pico"), {nn.Linear})
    with torch.no_grad():
        expected = create("swin_pico")(x)
        torch.testing.assert_close(model(x), expected, atol=1e-5, rtol=1e-4)
        assert (small(x) - expected).abs().max() < 0.1 * expected.abs().max()
    assert not layers(small).keys() & {"stages.0.blocks.0.attn.qkv", "stages.0.blocks.0.mlp.fc1"}
