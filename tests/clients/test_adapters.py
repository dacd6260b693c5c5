"""Tools that change layers, or compute gradients of single images: peft, torchao, torch.func."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from ..tiers import quick
from ..zoo.models import ARGUMENTS, SMALL


def create(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=4, **ARGUMENTS.get(name, {})).eval()


def images(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 64, 64)


def convolutions(model: nn.Module) -> list[str]:
    return [name for name, layer in model.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups == 1]


@pytest.mark.parametrize(
    ("name", "targets"),
    [
        ("nat_pico", lambda model: ["qkv", "proj"]),
        ("swiftformer_pico", lambda model: "all-linear"),
        ("overlock_pico", lambda model: "all-linear"),
        ("halonet_pico", convolutions),
        pytest.param("shvit_pico", convolutions, marks=pytest.mark.full),
    ],
    ids=["nat", "swiftformer", "overlock", "halonet", "shvit"],
)
@pytest.mark.filterwarnings("ignore")
def test_lora(name: str, targets: Callable[[nn.Module], object]) -> None:
    peft = pytest.importorskip("peft", reason="needs attnzoo[clients]")
    model, x = create(name), images()
    with torch.no_grad():
        before = model(x)
    adapted = peft.get_peft_model(model, peft.LoraConfig(target_modules=targets(model), r=4))
    adapted(x).square().mean().backward()
    learned = {key: p for key, p in adapted.named_parameters() if p.requires_grad}
    assert learned
    assert all("lora" in key and p.grad is not None for key, p in learned.items())
    with torch.no_grad():
        for p in learned.values():
            p.normal_(std=0.1)
        changed = adapted(x)
        assert not torch.allclose(changed, before, rtol=0.01)
        torch.testing.assert_close(adapted.merge_and_unload()(x), changed, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", quick(SMALL, ["nat_pico", "moh_vit_pico", "swiftformer_pico", "overlock_pico"]))
@pytest.mark.filterwarnings("ignore")
def test_weights_in_int8(name: str) -> None:
    torchao = pytest.importorskip("torchao.quantization", reason="needs torchao")
    model, x = create(name), images()
    linear = [layer for layer in model.modules() if type(layer) is nn.Linear]
    with torch.no_grad():
        expected = model(x)
        torchao.quantize_(model, torchao.Int8WeightOnlyConfig())
        assert (model(x) - expected).abs().max() < 0.1 * expected.abs().max()
    assert not any(type(layer.weight) is nn.Parameter for layer in linear)


@pytest.mark.parametrize("name", quick(SMALL, ["agent_deit_pico", "biformer_pico", "moh_vit_pico", "overlock_pico"]))
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_gradients_of_single_images(name: str) -> None:
    model, x = create(name).double(), images().double()
    parameters = {key: p.detach() for key, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, parameters, (image[None],)).square().sum()

    singles = vmap(grad(loss), (None, 0))(parameters, x)
    model(x).square().sum().backward()
    largest = max(p.grad.abs().max().item() for p in model.parameters())
    for key, p in model.named_parameters():
        # position tables are resized in float32
        torch.testing.assert_close(singles[key].sum(0), p.grad, rtol=0, atol=1e-7 * largest, msg=key)


@pytest.mark.parametrize("name", ["swin_pico", "vitrpb_pico"])
@pytest.mark.filterwarnings("ignore")
def test_opacus(name: str) -> None:
    opacus = pytest.importorskip("opacus", reason="needs attnzoo[clients]")
    model, x = create(name).train(), images()
    wrapped = opacus.GradSampleModule(model, loss_reduction="sum")
    wrapped(x).square().sum().backward()
    largest = max(p.grad.abs().max().item() for p in model.parameters())
    for key, p in model.named_parameters():
        torch.testing.assert_close(p.grad_sample.sum(0), p.grad, rtol=0, atol=1e-4 * largest, msg=key)
