"""Tools that explain predictions: captum and grad-cam."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from attnzoo.base import checkpoint_filter

from ..zoo.models import ARGUMENTS


def create(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=4, **ARGUMENTS.get(name, {})).eval()


@pytest.mark.parametrize("name", ["swin_pico", "agent_deit_pico", "overlock_pico"])
@pytest.mark.filterwarnings("ignore")
def test_integrated_gradients_are_complete(name: str) -> None:
    attr = pytest.importorskip("captum.attr", reason="needs attnzoo[clients]")
    torch.manual_seed(3)
    model, x = create(name), torch.randn(1, 3, 64, 64) * 0.1 + 0.5
    # scores of regions and heads, of which the best are chosen, are not continuous: not for biformer and moh_vit
    found = attr.IntegratedGradients(model).attribute(x, torch.zeros_like(x) + 0.5, target=1, n_steps=24)
    with torch.no_grad():
        change = (model(x) - model(torch.zeros_like(x) + 0.5))[0, 1]
    assert found.shape == x.shape
    assert found.sum().item() == pytest.approx(change.item(), rel=0.05, abs=1e-5)


@pytest.mark.parametrize("name", ["zoo_swiftformer_xs", pytest.param("zoo_mambaout_femto", marks=pytest.mark.full)])
@pytest.mark.filterwarnings("ignore")
def test_deeplift_says_what_it_says_of_timms_network(name: str) -> None:
    attr = pytest.importorskip("captum.attr", reason="needs attnzoo[clients]")
    theirs, ours = timm.create_model(name.removeprefix("zoo_"), num_classes=4).eval(), create(name)
    for tensor in theirs.state_dict().values():
        if tensor.ndim == 1:
            tensor.copy_(torch.rand_like(tensor) + 0.5)
    ours.load_state_dict(checkpoint_filter(name)(theirs.state_dict(), ours))
    x = torch.randn(1, 3, 64, 64)
    given, expected = (
        attr.DeepLift(model).attribute(x, torch.zeros_like(x) + 0.1, target=1) for model in (ours, theirs)
    )
    torch.testing.assert_close(given, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


# networks with maps (B, H, W, C), stages that return tuples, and a class token
TARGETS = {
    "nat_pico": "stages.3",
    "overlock_pico": "stages.2.blocks.1",
    "agent_deit_pico": "stages.2.blocks.1.norm1",
    "dhvt_pico": "stages.2.blocks.1.norm1",
}


@pytest.mark.parametrize("name", TARGETS)
def test_grad_cam_is_its_formula(name: str) -> None:
    cam = pytest.importorskip("pytorch_grad_cam", reason="needs attnzoo[clients]")
    model, x = create(name), torch.randn(1, 3, 64, 64)
    target, seen = model.get_submodule(TARGETS[name]), []
    handle = target.register_forward_hook(lambda *call: seen.append(call[2]))
    model(x)[0, 1].backward(inputs=seen)
    handle.remove()
    values, gradient = (model.reshape_transform(y.detach()) for y in (seen[0], seen[0].grad))
    expected = (values * gradient.mean((2, 3), keepdim=True)).sum(1)
    wanted = [cam.utils.model_targets.ClassifierOutputTarget(1)]
    with cam.GradCAM(model, [target], reshape_transform=model.reshape_transform) as explain:
        assert explain(x, wanted).shape == (1, 64, 64)
        records = explain.activations_and_grads
        found = explain.get_cam_image(x, target, wanted, records.activations[0].numpy(), records.gradients[0].numpy())
    assert expected.any()
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-5 * expected.abs().max().item())
