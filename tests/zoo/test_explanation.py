"""`attnzoo.explain` returns the weights that layers compute with, and leaves the network as it was."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import attnzoo
from attnzoo.explanation import attention_layers, grad_cam

from .models import ARGUMENTS, SMALL


def create(name: str, **arguments: Any) -> nn.Module:
    torch.manual_seed(1)
    return timm.create_model(name, num_classes=5, **ARGUMENTS.get(name, {}), **arguments).eval()


def input_of(layer: nn.Module, model: nn.Module, images: Tensor) -> tuple[Any, ...]:
    """Returns the arguments of a layer's call, forward or forward_tokens."""
    seen: list[tuple[Any, ...]] = []
    name = "forward_tokens" if hasattr(layer, "forward_tokens") else "forward"
    method = getattr(layer, name)
    setattr(layer, name, lambda *args, **kwargs: seen.append(args) or method(*args, **kwargs))
    with torch.no_grad():
        model(images)
    delattr(layer, name)
    return seen[0]


def token_weights(layer: Any, x: Tensor) -> Tensor:
    """The formula of attention over tokens (B, T, C), written out: (B, h, T, T)."""
    q, k, _ = layer.qkv(x).unflatten(2, (3, layer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(2, 3) / q.shape[3] ** 0.5).softmax(3)


@pytest.mark.parametrize("name", SMALL)
def test_every_family_is_explained_and_stays_as_it_was(name: str) -> None:
    model = create(name).train()
    x = torch.randn(2, 3, *model.pretrained_cfg["input_size"][1:])[:, :, :64, :64]
    modes, state = [m.training for m in model.modules()], {k: v.clone() for k, v in model.state_dict().items()}
    layers = attention_layers(model)
    for layer in (0, -1) if layers else (None,):
        found = attnzoo.explain(model, x, layer, None if layer is None else (40, 3))
        if found.kind == "channels":
            heads = model.get_submodule(found.layer).num_heads
            assert found.channels.min() >= 0
            torch.testing.assert_close(found.channels.sum(1), torch.full((2,), float(heads)))
        elif found.weights is None:
            assert found.kind == "gate"
            assert found.channels.isfinite().all()
        else:
            assert found.weights.isfinite().all()
            assert found.on_images().shape == (2, 64, 64)
        if found.kind == "attention" and not name.startswith(("ravlt", "moh", "flowformer")):
            assert found.weights.min() >= -1e-6
            torch.testing.assert_close(found.weights.sum((2, 3)) + found.outside, torch.ones_like(found.outside))
            assert (found.outside >= -1e-5).all()
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    for module in model.modules():
        assert not {"forward", "forward_tokens"} & module.__dict__.keys()
        assert len(module._forward_hooks) == len(module._forward_pre_hooks) == 0


def test_neighborhoods_are_scattered_to_the_map() -> None:
    model, x = create("dinat_s_pico"), torch.randn(2, 3, 96, 64)
    name = attention_layers(model)[1]
    layer = model.get_submodule(name)
    (given,) = input_of(layer, model, x)
    found = attnzoo.explain(model, x, name, (50, 60))
    row, column = 50 * given.shape[1] // 96, 60 * given.shape[2] // 64
    assert found.query == (row, column)
    # the weights of a neighborhood, in row-major order
    expected = layer.weights(given)[:, row, column].sort(-1)[0]
    values = found.weights.flatten(2).sort(-1)[0][..., -expected.shape[-1] :]
    torch.testing.assert_close(values, expected)
    assert (found.weights > 0).sum((2, 3)).max() == expected.shape[-1]


@pytest.mark.parametrize("name", ["agent_deit_pico", "vit_tiny_patch16_224"])
def test_class_token_and_positions_of_tokens(name: str) -> None:
    arguments = {"depth": 2, "img_size": 64} if name.startswith("vit") else {}
    model, x = create(name, **arguments), torch.randn(1, 3, 64, 64)
    layer = next(n for n in reversed(attention_layers(model)) if not hasattr(model.get_submodule(n), "biases"))
    attention = model.get_submodule(layer)
    weights = token_weights(attention, input_of(attention, model, x)[0])
    of_class, of_position = attnzoo.explain(model, x, layer), attnzoo.explain(model, x, layer, (20, 50))
    torch.testing.assert_close(of_class.weights.flatten(2), weights[:, :, 0, 1:])
    torch.testing.assert_close(of_class.outside, weights[:, :, 0, 0])
    torch.testing.assert_close(of_position.weights.flatten(2), weights[:, :, 1 + 1 * 4 + 3, 1:])
    torch.testing.assert_close(of_class.at((20, 50)).weights, of_position.weights)


def test_agents_are_between_query_and_tokens() -> None:
    model, x = create("agent_pico"), torch.randn(2, 3, 64, 64)
    found = attnzoo.explain(model, x, 0, (30, 30))
    torch.testing.assert_close(found.agents.sum((3, 4)), torch.ones(found.agents.shape[:3]))
    torch.testing.assert_close(found.to_agents.sum(2), torch.ones(found.to_agents.shape[:2]))
    torch.testing.assert_close(found.weights, torch.einsum("bha,bhaij->bhij", found.to_agents, found.agents))


def test_shifted_windows_do_not_cross_the_border() -> None:
    model, x = create("swin_pico"), torch.randn(1, 3, 112, 112)
    shifted = next(name for name in attention_layers(model) if getattr(model.get_submodule(name), "shifted", False))
    size = model.get_submodule(shifted).rows
    found = attnzoo.explain(model, x, shifted, (0, 0))
    # the first window of a shifted layer is as long as the shift
    reach = size // 2
    assert (found.weights[:, :, :reach, :reach] > 0).all()
    assert found.weights[:, :, reach:].abs().max() == found.weights[:, :, :, reach:].abs().max() == 0


def test_routed_weights_reproduce_the_output() -> None:
    model, x = create("biformer_pico"), torch.randn(1, 3, 112, 112)
    name = attention_layers(model)[0]
    layer = model.get_submodule(name)
    (given,) = input_of(layer, model, x)
    seen: list[Tensor] = []
    handles = [
        layer.proj.register_forward_pre_hook(lambda module, args: seen.append(args[0])),
        layer.lepe.register_forward_hook(lambda module, args, out: torch.zeros_like(out)),
    ]
    with torch.no_grad():
        layer(given)
        values = layer.qkv(given).chunk(3, -1)[2].unflatten(3, (layer.num_heads, -1))
    for handle in handles:
        handle.remove()
    found = attnzoo.explain(model, x, name, (60, 100))
    row, column = found.query
    rebuilt = torch.einsum("bhij,bijhd->bhd", found.weights, values).flatten(1)
    torch.testing.assert_close(rebuilt, seen[0][:, row, column])
    # the regions that were not chosen
    assert (found.weights == 0).any()


def test_halves_of_hilo_follow_each_other() -> None:
    model, x = create("litv2_pico"), torch.randn(1, 3, 64, 64)
    found = attnzoo.explain(model, x, 0, (10, 10))
    assert list(found.parts) == ["high", "low"]
    assert torch.equal(torch.cat(list(found.parts.values()), 1), found.weights)
    side = model.get_submodule(found.layer).window_size
    # high frequencies stay in a window; low ones see means, the same for all pixels of a window
    assert (found.parts["high"] > 0).sum() == found.parts["high"].shape[1] * side**2
    cells = found.parts["low"].unflatten(2, (-1, side)).unflatten(4, (-1, side))
    assert torch.equal(cells.amax((3, 5)), cells.amin((3, 5)))


def test_gates_are_their_factors() -> None:
    model, x = create("fcanet_pico"), torch.randn(1, 3, 64, 64)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    name = attention_layers(model)[0]
    layer, seen = model.get_submodule(name), []
    handle = layer.register_forward_hook(lambda module, args, out: seen.extend((args[0].clone(), out.clone())))
    with torch.no_grad():
        model(x)
    handle.remove()
    found = attnzoo.explain(model, x, name)
    assert found.kind == "gate"
    torch.testing.assert_close(seen[0] * found.channels[:, :, None, None], seen[1])


@pytest.mark.parametrize("name", ["resnet18", "dhvt_pico"])
def test_grad_cam_is_its_formula(name: str) -> None:
    model, x = create(name), torch.randn(2, 3, 64, 64)
    target = model.layer4 if name == "resnet18" else model.stages[-1].blocks[-1].norm1
    seen: list[Tensor] = []
    handle = target.register_forward_hook(lambda module, args, out: seen.append(out))
    logits = model(x)
    handle.remove()
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), seen[0])
    values = seen[0].detach()
    if values.ndim == 3:
        values, gradient = (y[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2) for y in (values, gradient))
    expected = (values * gradient.mean((2, 3), keepdim=True)).sum(1).relu()
    torch.testing.assert_close(grad_cam(model, x), expected, rtol=1e-4, atol=1e-6)
    if name == "resnet18":
        found = attnzoo.explain(model, x)
        assert found.kind == "grad_cam"
        torch.testing.assert_close(found.weights[:, 0], grad_cam(model, x))


def test_odd_models_and_maps() -> None:
    model, x = create("nat_pico"), torch.randn(1, 3, 64, 64)
    layer = model.get_submodule(attention_layers(model)[0])
    layer.forward = forward = layer.forward
    with torch.inference_mode():
        found = attnzoo.explain(model, x, 0)
    assert layer.__dict__["forward"] is forward
    with pytest.raises(ValueError, match="within images"):
        found.at((-1, 3))
    # high-frequency heads see the padding of an odd map
    halves = attnzoo.explain(create("litv2_pico"), torch.randn(1, 3, 75, 101), 0, (74, 100))
    torch.testing.assert_close(halves.weights.sum((2, 3)) + halves.outside, torch.ones_like(halves.outside))
    mobile, x2 = timm.create_model("mobilevit_xxs"), torch.randn(2, 3, 64, 64)
    with pytest.raises(ValueError, match="attends within parts of the map"):
        attnzoo.explain(mobile, x2, -1)
    with pytest.warns(UserWarning, match="attends within parts of the map .* this is Grad-CAM instead"):
        assert attnzoo.explain(mobile, x2).kind == "grad_cam"
    with torch.inference_mode(), pytest.raises(ValueError, match="create it outside"):
        attnzoo.explain(create("nat_pico"), x)


@pytest.mark.filterwarnings("ignore:.*this is Grad-CAM instead")
@pytest.mark.parametrize(
    ("name", "arguments", "layer"),
    [
        ("pit_ti_224", {"img_size": 64, "base_dims": (8, 8, 8), "depth": (1, 1, 2)}, "transformers.2.blocks.1.norm1"),
        ("cait_xxs24_224", {"img_size": 64, "embed_dim": 32, "depth": 1}, "blocks_token_only.1.norm1"),
        (
            "xcit_nano_12_p16_224",
            {"img_size": 64, "depth": 1, "embed_dim": 32, "num_heads": 2},
            "cls_attn_blocks.1.norm1",
        ),
        (
            "crossvit_tiny_240",
            {"embed_dim": (16, 32), "num_heads": (2, 2), "depth": ((1, 1, 0),)},
            "blocks.0.fusion.1.norm1",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_map_is_found_where_the_layout_is_not_known(name: str, arguments: dict[str, Any], layer: str) -> None:
    model = create(name, **arguments)
    size = model.pretrained_cfg["input_size"][1] if "crossvit" in name else 64
    x = torch.randn(2, 3, size, size)
    found = attnzoo.explain(model, x, query=(40, 3))
    assert found.kind == "grad_cam"
    assert found.layer == layer
    assert found.weights.amax((1, 2, 3)).min() > 0
    torch.testing.assert_close(found.weights[:, 0], grad_cam(model, x))
    assert all(len(module._forward_hooks) == 0 for module in model.modules())


def test_a_network_without_a_map_is_told() -> None:
    model = create("resnet18")
    model.forward_features = lambda x: [x]
    model.forward = lambda x: x.mean((2, 3)).repeat(1, 5)
    with pytest.raises(ValueError, match="finds no map in ResNet"):
        attnzoo.explain(model, torch.randn(1, 3, 64, 64))


def test_inference_mode_is_left_for_grad_cam() -> None:
    model = create("resnet18")
    with torch.inference_mode():
        assert attnzoo.explain(model, torch.randn(1, 3, 64, 64)).kind == "grad_cam"


def test_mistakes_are_told() -> None:
    model, x = create("nat_pico"), torch.randn(1, 3, 64, 64)
    names = attention_layers(model)
    with pytest.raises(ValueError, match=f"nearest names are .*{names[0]}"):
        attnzoo.explain(model, x, names[0] + "x")
    with pytest.raises(ValueError, match=r"layer must be -5 \.\. 4"):
        attnzoo.explain(model, x, 5)
    for layer in (1.5, True):
        with pytest.raises(ValueError, match="layer must be the name or the index of an attention layer"):
            attnzoo.explain(model, x, layer)
    for query in ((64, 0), 5):
        with pytest.raises(ValueError, match="within images of 64 x 64 pixels"):
            attnzoo.explain(model, x, 0, query)
    with pytest.raises(ValueError, match="images must be"):
        attnzoo.explain(model, x[0])
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        attnzoo.explain("nat_pico", x)
    with pytest.raises(ValueError, match="has no attention"):
        attnzoo.explain(create("resnet18"), x, "layer4")
    with pytest.raises(ValueError, match="weights channels"):
        attnzoo.explain(create("davit_pico"), x).on_images()
    for target in (5, "cat", [1], 1.0):
        with pytest.raises(ValueError, match=r"must be 0 \.\. 4"):
            grad_cam(model, x, target)
