"""The MLP saves its hidden layer once, and recomputes the activation in the backward pass."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from attnzoo.blocks import Mlp


def kept(module: nn.Module, x: Tensor) -> int:
    """Returns the number of elements stored for the backward pass, without parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        # the result keeps the stored tensors alive, so no address is used twice
        result = module(x)
    assert result.requires_grad
    return sum(size for address, size in sizes.items() if address not in parameters)


def test_the_hidden_layer_is_kept_once() -> None:
    mlp, x = Mlp(6, 15), torch.randn(2, 4, 6, requires_grad=True)
    once, twice = kept(mlp, x), kept(nn.Sequential(mlp.fc1, mlp.act, mlp.fc2), x)
    assert twice - once >= 2 * 4 * 15


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_recomputed_gradients_are_the_same(drop: float) -> None:
    mlp, x = Mlp(6, 15, drop), torch.randn(2, 4, 6, dtype=torch.float64, requires_grad=True)
    mlp.double()
    inputs = [x, *mlp.parameters()]
    torch.manual_seed(0)
    ours = torch.autograd.grad(mlp(x).square().sum(), inputs)
    torch.manual_seed(0)
    theirs = torch.autograd.grad(mlp._activate_and_contract(mlp.fc1(x)).square().sum(), inputs)
    for found, wanted in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, wanted)
    if drop == 0:
        assert torch.autograd.gradgradcheck(mlp, x)
        per_sample = torch.func.vmap(torch.func.grad(lambda y: mlp(y).sum()))(x)
        torch.testing.assert_close(per_sample, torch.autograd.grad(mlp(x).sum(), x)[0])


def test_hooks_keep_what_the_first_layer_computed() -> None:
    mlp, x = Mlp(6, 15), torch.randn(2, 4, 6)
    with torch.no_grad():
        expected = mlp(x)
        seen: dict[str, Tensor] = {}
        for name in ("fc1", "act"):
            mlp.get_submodule(name).register_forward_hook(lambda *call, name=name: seen.update({name: call[2]}))
        torch.testing.assert_close(mlp(x), expected)
        torch.testing.assert_close(seen["fc1"], torch.nn.functional.linear(x, mlp.fc1.weight, mlp.fc1.bias))
        torch.testing.assert_close(seen["act"], torch.nn.functional.gelu(seen["fc1"]))
