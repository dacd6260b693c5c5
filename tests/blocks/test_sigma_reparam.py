"""sigmaReparam: the official ViT, the state at the start, training, and the way back."""

from __future__ import annotations

import copy
import re

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import attnzoo
from attnzoo.blocks import SigmaReparam

from ..parity.recipe import FOLDERS, load_case, relative_error


def network(**arguments: object) -> nn.Module:
    return timm.create_model("nat_isotropic_pico", num_classes=5, **arguments)


def weights(official: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Official tensors under the names of torch's parametrizations; norms that are only tracked are left out."""
    found = {}
    for name, tensor in official.items():
        if name.endswith((".effective_spectral_norm", ".spectral_normed_weight.spectral_norm")):
            continue
        # the same tensor as `spectral_normed_weight.weight`, whose values hold
        if name.removesuffix("weight") + "sigma" in official and name.endswith(".weight"):
            continue
        name = re.sub(r"\.sigma$", ".parametrizations.weight.0.sigma", name)
        name = re.sub(r"\.spectral_normed_weight\.u$", ".parametrizations.weight.0.u", name)
        name = re.sub(r"\.spectral_normed_weight\.weight$", ".parametrizations.weight.original", name)
        found[name] = tensor.reshape(model.state_dict()[name].shape)
    return found


def test_the_official_vit() -> None:
    case = load_case(FOLDERS[0] / "sigma_reparam_vit_tiny_patch16.json")
    model = timm.create_model("vit_tiny_patch16_224", norm_layer=nn.Identity).eval()
    attnzoo.reparametrize(model)
    model.load_state_dict(weights(case.checkpoint, model))
    folded = attnzoo.fold_reparametrization(copy.deepcopy(model))
    assert sum(p.numel() for p in model.parameters()) == case.parameters
    with torch.no_grad():
        assert relative_error(model(case.images), case.answers["logits"]) < 2e-5
        assert relative_error(folded(case.images), case.answers["logits"]) < 2e-5
        in_double = model.double()(case.images.double())
    error = relative_error(in_double, case.answers["logits"])
    assert error == pytest.approx(case.facts["float64_rel_diff"], rel=1e-3)


def test_outputs_stay_and_the_way_back_gives_plain_layers() -> None:
    model, images = network().eval(), torch.randn(2, 3, 64, 64)
    names = list(model.state_dict())
    with torch.no_grad():
        expected = model(images)
        assert attnzoo.reparametrize(model) is model
        torch.testing.assert_close(model(images), expected)
        # weights that the power iteration has not converged for
        for layer in model.modules():
            if isinstance(layer, SigmaReparam):
                layer.u.normal_()
        trained = model(images)
        assert attnzoo.fold_reparametrization(model.train()) is model
        assert list(model.state_dict()) == names
        assert type(model.head.fc) is nn.Linear
        torch.testing.assert_close(model.eval()(images), trained)


def test_training_follows_the_spectral_norm() -> None:
    layer = attnzoo.reparametrize(nn.Linear(6, 4))
    (reparam,) = layer.parametrizations["weight"]
    with torch.no_grad():
        layer.parametrizations["weight"].original.normal_()
    for _ in range(100):
        layer(torch.randn(2, 6))
    torch.testing.assert_close(torch.linalg.matrix_norm(layer.weight, 2), reparam.sigma[0], rtol=1e-4, atol=0)
    before = reparam.u.clone()
    layer.eval()(torch.randn(2, 6))
    assert torch.equal(reparam.u, before)


def test_gradients() -> None:
    reparam = SigmaReparam(torch.randn(3, 2, 2, dtype=torch.float64)).double().eval()
    weight = torch.randn(3, 2, 2, dtype=torch.float64, requires_grad=True)
    # at the singular vectors, which have no gradient, the gradient of the estimate is that of the norm
    reparam.u.copy_(torch.linalg.svd(weight.detach().flatten(1))[2][0])
    norm = torch.linalg.matrix_norm(weight.flatten(1), 2)
    expected = torch.autograd.grad((reparam.sigma.detach() * weight / norm).square().sum() + weight[0, 0, 0], weight)
    found = torch.autograd.grad(reparam(weight).square().sum() + weight[0, 0, 0], weight)
    torch.testing.assert_close(found, expected)


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="0 is parametrized already: fold or remove"):
        attnzoo.reparametrize(nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4))))
    with pytest.raises(ValueError, match="Identity has no linear layers or convolutions to reparametrize"):
        attnzoo.reparametrize(nn.Identity())
    # a parametrization of another kind stays
    layer = parametrizations.weight_norm(nn.Linear(4, 4))
    assert "parametrizations.weight.original0" in attnzoo.fold_reparametrization(layer).state_dict()
